# syntax=docker/dockerfile:1
# Training, on a GPU or without one. In the root of a checkout:
#
#   docker build --file docker/train.Dockerfile --tag mnemic:cuda .
#   docker run --rm --init --gpus all --shm-size 4g --volume mnemic-runs:/workspace/runs \
#       mnemic:cuda train --device cuda --ppo.rows 4096
#
# It begins with a plain Python, because torch's wheels on PyPI bring CUDA, cuDNN and NCCL along and Triton's its
# assembler: an image with CUDA in it would hold these twice. Of the host only the driver is used.
#
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu takes a torch without CUDA, a fraction of the size.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip wheel --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim-bookworm
# Triton and torch.compile write C and C++ while they run, and have it compiled.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The large layer comes first and by itself: it is made again only when a pinned version changes.
ARG TORCH_INDEX=https://pypi.org/simple
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    pip install --constraint /tmp/constraints.txt --extra-index-url "${TORCH_INDEX}" torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    --mount=type=bind,from=wheel,source=/wheel,target=/tmp/wheel \
    pip install --constraint /tmp/constraints.txt /tmp/wheel/*.whl
# Anyone may write here, so that `docker run --user` works with any number; LOGNAME names whom no file knows.
RUN useradd --uid 1000 --no-create-home --home-dir /workspace mnemic \
    && install --directory --mode 1777 /workspace /workspace/runs
ENV HOME=/workspace \
    LOGNAME=mnemic \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /workspace
USER 1000
ENTRYPOINT ["mnemic"]
CMD ["--help"]
