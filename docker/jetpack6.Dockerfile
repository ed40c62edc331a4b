# The device side for JetPack 6.1 and 6.2 (Orin, TensorRT 10.3, CUDA 12.6, Python 3.10). Never built: see docs/jetson.md.
#
# In the root of a checkout, on the Jetson:
#
#   docker build -f docker/jetpack6.Dockerfile -t diffpose-edge .
#   docker run --rm --runtime nvidia diffpose-edge doctor
#   docker run --rm --runtime nvidia --user $(id -u):$(id -g) --group-add video -v $PWD:/data diffpose-edge \
#       build /data/bundle --precision fp16
#   docker run --rm --runtime nvidia --user $(id -u):$(id -g) --group-add video -v $PWD:/data diffpose-edge \
#       run /data/bundle --backend tensorrt --precision fp16 --keypoints /data/clip.npz --out /data/poses.npz
#
# --user: so that what is written belongs to whoever runs it; --group-add: the GPU's devices are the group's.
# Engines are for the TensorRT in here: build them in here.
# JetPack 6.0: --build-arg BASE=nvcr.io/nvidia/l4t-tensorrt:r8.6.2-runtime
# An image without TensorRT's Python module stops the build below: --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0, which is larger.
# Tags: https://catalog.ngc.nvidia.com/orgs/nvidia/containers/l4t-tensorrt
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# It can be looked for, not imported: a library of it comes with the driver, which only the NVIDIA runtime brings.
RUN python3 -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('tensorrt'))" \
    || { echo "this image has no tensorrt module for its Python"; exit 1; }
# System packages are visible: tensorrt is one of them.
RUN python3 -m venv --system-site-packages /opt/diffpose-edge
ENV PATH=/opt/diffpose-edge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
# Ubuntu 22.04's pip is of 2022.
RUN pip install --no-cache-dir --upgrade pip
WORKDIR /usr/src/diffpose-edge
COPY pyproject.toml setup.py README.md LICENSE ./
COPY diffpose_edge diffpose_edge
COPY runtime runtime
COPY reference reference
COPY export export
COPY calibration calibration
COPY benchmarks benchmarks
# CUDA 12: what cuda-bindings 13 needs is newer than JetPack 6's driver.
RUN pip install --no-cache-dir '.[cuda,build]' 'cuda-bindings==12.*'
RUN useradd --create-home --uid 10001 --groups video pose
WORKDIR /home/pose
USER pose
ENTRYPOINT ["diffpose-edge"]
CMD ["doctor"]
