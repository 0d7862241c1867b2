# The image for every machine of a cluster: head, workers and jobs run the same code and versions.
#
# For GPUs (the torch of PyPI includes CUDA's libraries):
#   docker build -t skiprec .
# For CPUs:
#   docker build -t skiprec --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" .

# The service alone, without torch and Ray (docs/serving.md):
#   docker build --target serve -t skiprec-serve .
#   docker run -p 8080:8080 -v /models:/models skiprec-serve --model /models/shop
FROM python:3.11-slim-bookworm AS wheel
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY skiprec skiprec
COPY cluster cluster
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm AS serve
COPY constraints.txt jobs/serve_model.py /opt/skiprec/
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/skiprec/constraints.txt "$(ls /wheels/*.whl)[serve]" \
 && useradd --create-home --uid 1000 skiprec
USER skiprec
EXPOSE 8080
# A container's own loopback is not reached from outside, so the service listens on all addresses.
ENTRYPOINT ["python", "/opt/skiprec/serve_model.py", "--host", "0.0.0.0"]

# The image for every machine of a cluster; it is the last stage, so it is what a build makes.
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
