# syntax=docker/dockerfile:1
# Two images. For every role of the platform: `docker build .`, `docker run IMAGE gateway --listen 0.0.0.0:8080 ...`.
# For the operator: `docker build --target operator .`. Apart, since neither has use for the other's packages: the
# operator, which may write to the API server, runs no drivers, and gateways, which face the world, no API client.
FROM python:3.12-slim AS operator-build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/chatcluster
COPY requirements/operator.txt requirements/
RUN /opt/chatcluster/bin/pip install --require-hashes --only-binary :all: -r requirements/operator.txt
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY operator operator
RUN /opt/chatcluster/bin/pip install --no-deps --no-build-isolation . \
    && /opt/chatcluster/bin/python -m compileall -q /opt/chatcluster/lib

FROM python:3.12-slim AS operator
# Nothing is written but to /tmp. Its API client asks for a HOME.
COPY --from=operator-build /opt/chatcluster /opt/chatcluster
ENV PATH=/opt/chatcluster/bin:$PATH HOME=/ PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
EXPOSE 8082
ENTRYPOINT ["chatcluster-operator"]

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/chatcluster
# The locked packages first: a change of our code alone does not fetch them again.
COPY requirements/platform.txt requirements/
RUN /opt/chatcluster/bin/pip install --require-hashes --only-binary :all: -r requirements/platform.txt
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY operator operator
RUN /opt/chatcluster/bin/pip install --no-deps --no-build-isolation . \
    && /opt/chatcluster/bin/python -m compileall -q /opt/chatcluster/lib

FROM python:3.12-slim
# A number, so that Kubernetes' runAsNonRoot can check it. Nothing is written but to /tmp (gateway --processes).
COPY --from=build /opt/chatcluster /opt/chatcluster
ENV PATH=/opt/chatcluster/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
# Sockets of clients, probes with metrics and server API, links of routers and presences.
EXPOSE 8080 8081 8090
ENTRYPOINT ["chatcluster"]
CMD ["--help"]
