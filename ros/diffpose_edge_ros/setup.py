"""The ament_python package: an executable and what starts it. The node itself is in diffpose-edge, which pip installs."""

from setuptools import setup

NAME = "diffpose_edge_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/diffpose_edge.launch.py"]),
        (f"share/{NAME}/config", ["config/diffpose_edge.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="3D human poses with their uncertainty from 2D keypoints, as a lifecycle node",
    license="MIT",
    entry_points={"console_scripts": ["diffpose_edge_node = diffpose_edge_ros.node:main"]},
)
