# syntax=docker/dockerfile:1
# The training image with habitat-sim beside it, headless, x86-64. In the root of a checkout:
#
#   docker build --file docker/train.Dockerfile --tag mnemic:cuda .
#   docker build --file docker/habitat.Dockerfile --tag mnemic:habitat .
#   docker run --rm --init --gpus all mnemic:habitat eval oracle --env object-nav --episodes 8 \
#       --env.simulator habitat --env.habitat-python /opt/habitat/bin/python
#
# habitat-sim is published for Python 3.9 only, so it has an interpreter of its own: mnemic is told with
# --env.habitat-python /opt/habitat/bin/python, and nothing of the one reaches the other.
#
# With `docker run --gpus all` it renders by EGL on the GPU; without one Mesa draws on the CPU (gpu_device_id=-1).
ARG TRAIN_IMAGE=mnemic:cuda

FROM mambaorg/micromamba:2.3.2 AS habitat
ARG HABITAT_SIM=0.3.3
# Only to write to /opt: no image is made of this stage.
# hadolint ignore=DL3002
USER 0
# `headless` and `withbullet` choose the build; numpy is the one that this release of habitat-sim was made with.
RUN micromamba create --yes --prefix /opt/habitat --channel conda-forge --channel aihabitat \
    python=3.9 numpy=1.26.4 "habitat-sim=${HABITAT_SIM}" headless withbullet

FROM ${TRAIN_IMAGE}
USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgl1 libgl1-mesa-dri libopengl0 \
    && rm -rf /var/lib/apt/lists/*
# Without this file EGL does not look at NVIDIA's driver, and not every container toolkit brings it.
RUN printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n' \
    > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
COPY --from=habitat /opt/habitat /opt/habitat
# A missing library is found here and not in the first run.
RUN /opt/habitat/bin/python -c "import habitat_sim"
ENV NVIDIA_DRIVER_CAPABILITIES=all
USER 1000
