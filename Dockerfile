# The image for every machine of a cluster: head, workers and jobs run the same code and versions.
#
# For GPUs (the torch of PyPI includes CUDA's libraries):
#   docker build -t skiprec .
# For CPUs:
#   docker build -t skiprec --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" .

# We use a plain Python image. The image rayproject/ray brings its own versions of Ray and of Ray's
# dependencies, and the versions of constraints.txt would be installed over them.
FROM python:3.11-slim-bookworm

# make runs the installation. g++ compiles the native executor, and Triton needs gcc and libc6-dev to
# compile a launcher on the first GPU step. KubeRay's probes of a pod call wget.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make g++ libc6-dev wget \
 && rm -rf /var/lib/apt/lists/*

# The user is not root, because a job can run any code. KubeRay mounts its volumes for this user id.
RUN useradd --create-home --uid 1000 ray && install --directory --owner=ray /opt/skiprec
USER ray
WORKDIR /opt/skiprec

# The files that decide the installed packages are copied first, so that a change of the code does not
# repeat the installation.
ARG PIP_ARGS=""
COPY --chown=ray Makefile pyproject.toml constraints.txt README.md ./
RUN mkdir skiprec cluster && touch skiprec/__init__.py cluster/__init__.py \
 && PIP_NO_CACHE_DIR=1 make packages PIP_ARGS="$PIP_ARGS"

# The executor is compiled again only when its sources change. It goes into the environment, so that
# the jobs that Ray unpacks elsewhere find it.
COPY --chown=ray skiprec/inference/native skiprec/inference/native
RUN touch skiprec/inference/__init__.py && make install

COPY --chown=ray . .

# Ray's default niceness of 15 would starve training workers beside any other process.
ENV PATH="/opt/skiprec/.venv/bin:$PATH" \
    RAY_TRAIN_V2_ENABLED=1 \
    RAY_worker_niceness=0

# KubeRay sets its own command. Without one, the image checks whether it is complete.
CMD ["python", "jobs/check_environment.py"]
