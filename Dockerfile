# Tierwise with all that it needs: for CPUs, or for NVIDIA GPUs (the host has the driver and NVIDIA's container toolkit).
#
#   docker build -t tierwise:cpu .
#   docker build -t tierwise:gpu --build-arg HARDWARE=gpu .
#   docker run --init --shm-size 2g -p 127.0.0.1:8000:8000 -e REDIS_URL=redis://... \
#     -v ./tenants.keys:/etc/tierwise/tenants.keys:ro tierwise:cpu
#
# By itself it runs configs/compose/gateway.yaml; `tierwise serve FILE` after the image's name runs another one, and Ray's
# own commands (`ray start`, `serve deploy`) are there for a cluster. No secret is in it: keys come by the environment.
ARG PYTHON_TAG=3.12-slim-bookworm

FROM python:${PYTHON_TAG} AS build
ARG HARDWARE=cpu
ENV PIP_NO_CACHE_DIR=1 TIERWISE_HOME=/home/tierwise/.cache/tierwise
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tierwise
# What is needed before the code, so that a change of the code keeps this layer of some GB: the installation is by
# reference, and wants the packages' folders.
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY app/__init__.py app/
RUN python -c "import pathlib, tomllib; \
    packages = tomllib.load(open('pyproject.toml', 'rb'))['tool']['setuptools']['packages']; \
    [pathlib.Path(name.replace('.', '/')).mkdir(parents=True, exist_ok=True) for name in packages]" \
    && make VENV=/opt/venv "/opt/venv/.${HARDWARE}"
COPY app app
COPY deployments deployments
COPY configs configs
RUN /opt/venv/bin/tierwise prepare

FROM python:${PYTHON_TAG}
LABEL org.opencontainers.image.title=tierwise org.opencontainers.image.licenses=Apache-2.0
# g++: vLLM compiles kernels when it starts. libnuma1: its build for CPUs. /usr/local/bin: a login shell, as KubeRay
# starts Ray with, forgets PATH.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --shell /bin/bash tierwise \
    && for name in ray serve tierwise; do ln -s "/opt/venv/bin/$name" "/usr/local/bin/$name"; done
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=1000:1000 /home/tierwise/.cache /home/tierwise/.cache
COPY --from=build /opt/tierwise /opt/tierwise
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/tierwise
USER 1000:1000
EXPOSE 8000
# The first start loads a model. Under Kubernetes its own probes count.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --start-interval=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["tierwise", "serve", "configs/compose/gateway.yaml"]
