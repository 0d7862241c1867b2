# The image of every machine of a cluster: head, workers and jobs run the same code and pins.
#
#   docker build -t skiprec .                            for GPUs: PyPI's torch brings CUDA's libraries
#   docker build -t skiprec --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" .

# A plain Python and not rayproject/ray: that one brings its own versions of Ray and of all that Ray
# needs, and the pins of constraints.txt would be installed over them.
FROM python:3.11-slim-bookworm

# make: the one way to install. gcc and libc6-dev: Triton compiles a launcher on the first GPU step.
# wget: KubeRay's probes of a pod call it.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make gcc libc6-dev wget \
 && rm -rf /var/lib/apt/lists/*

# Not root: a job is whatever its sender wrote. KubeRay's volumes are mounted for this number.
RUN useradd --create-home --uid 1000 ray && install --directory --owner=ray /opt/skiprec
USER ray
WORKDIR /opt/skiprec

# What decides the installed packages comes first, so that a change of code does not install anew.
ARG PIP_ARGS=""
COPY --chown=ray Makefile pyproject.toml constraints.txt README.md ./
RUN mkdir skiprec cluster && touch skiprec/__init__.py cluster/__init__.py \
 && PIP_NO_CACHE_DIR=1 make install PIP_ARGS="$PIP_ARGS"

COPY --chown=ray . .

# niceness: Ray's default of 15 starves training workers beside any other process.
ENV PATH="/opt/skiprec/.venv/bin:$PATH" \
    RAY_TRAIN_V2_ENABLED=1 \
    RAY_worker_niceness=0

# KubeRay brings its own command. By itself the image shows whether it is whole.
CMD ["python", "jobs/check_environment.py"]
