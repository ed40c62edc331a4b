# The device side for JetPack 7 (Thor; Orin from 7.2 on): an ordinary ARM image with TensorRT. Never built: see docs/jetson.md.
#
# In the root of a checkout, on the Jetson:
#
#   docker build -f docker/jetpack7.Dockerfile -t diffpose-edge .
#   docker run --rm --runtime nvidia diffpose-edge doctor
#   docker run --rm --runtime nvidia --user $(id -u):$(id -g) --group-add video -v $PWD:/data diffpose-edge \
#       build /data/bundle --precision fp16
#   docker run --rm --runtime nvidia --user $(id -u):$(id -g) --group-add video -v $PWD:/data diffpose-edge \
#       run /data/bundle --backend tensorrt --precision fp16 --keypoints /data/clip.npz --out /data/poses.npz
#
# --user: so that what is written belongs to whoever runs it; --group-add: the GPU's devices are the group's.
# Engines are for the TensorRT in here: build them in here.
# 25.08 has CUDA 13.0, which every JetPack 7 runs, and was tried on a Thor: https://github.com/OE4T/meta-tegra/issues/2120
# An Orin needs an image with TensorRT 10.16 or later, which is the first that knows it: --build-arg BASE=nvcr.io/nvidia/tensorrt:<newer>
# Tags: https://catalog.ngc.nvidia.com/orgs/nvidia/containers/tensorrt
ARG BASE=nvcr.io/nvidia/tensorrt:25.08-py3

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# It can be looked for, not imported: the driver comes with the NVIDIA runtime only.
RUN python3 -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('tensorrt'))" \
    || { echo "this image has no tensorrt module for its Python"; exit 1; }
# System packages are visible: tensorrt is one of them.
RUN python3 -m venv --system-site-packages /opt/diffpose-edge
# NVIDIA's images tell pip to keep their own versions; the environment has its own.
ENV PATH=/opt/diffpose-edge/bin:$PATH \
    PIP_CONSTRAINT= \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /usr/src/diffpose-edge
COPY pyproject.toml setup.py README.md LICENSE ./
COPY diffpose_edge diffpose_edge
COPY runtime runtime
COPY reference reference
COPY export export
COPY calibration calibration
COPY benchmarks benchmarks
RUN pip install --no-cache-dir '.[cuda,build]' 'cuda-bindings==13.*'
RUN useradd --create-home --uid 10001 --groups video pose
WORKDIR /home/pose
USER pose
ENTRYPOINT ["diffpose-edge"]
CMD ["doctor"]
