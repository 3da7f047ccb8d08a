# One image for all services; the command chooses: `serve tasks`, `serve runs`, `serve previews`, or any other that
# `tailrace` has. compose.yaml shows how it is meant to run: read-only, without capabilities, as nobody in particular.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS packages
# pip's own settings, where the builder's environment has some. pip passes over those that are empty.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_DEFAULT_TIMEOUT
WORKDIR /opt/tailrace
COPY requirements.txt .
RUN python -m venv .venv \
 && .venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --only-binary :all: --require-hashes \
    --requirement requirements.txt \
 && .venv/bin/pip uninstall --quiet --yes pip \
 && rm requirements.txt
COPY services services
COPY shared shared
COPY deploy/first_start.py first_start.py
RUN printf '/opt/tailrace\n' >"$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/tailrace.pth" \
 && printf '#!/bin/sh\nexec /opt/tailrace/.venv/bin/python -m services.cli "$@"\n' >.venv/bin/tailrace \
 && chmod +x .venv/bin/tailrace \
 && .venv/bin/python -m compileall -q services shared

FROM ${PYTHON_IMAGE}
# What the programs of previews may need besides Python; empty for an image without Node.js.
ARG PREVIEW_PACKAGES=nodejs
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get -qq update \
 && apt-get -qq install --yes --no-install-recommends bubblewrap tini ${PREVIEW_PACKAGES} >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 tailrace \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tailrace \
 # a new volume takes over the owner of the directory it is mounted on
 && install -d -o tailrace -g tailrace -m 0711 /data \
 && install -d -o tailrace -g tailrace -m 0700 /secrets /secrets/database /secrets/jwt /secrets/tls
COPY --from=packages /opt/tailrace /opt/tailrace
ENV PATH=/opt/tailrace/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    TAILRACE_HOST=0.0.0.0 TAILRACE_DATA_DIRECTORY=/data
WORKDIR /data
USER 10001:10001
EXPOSE 8000
# Whether it lives, not whether it is ready: a service whose database is away gets well by itself.
# In bash, because a Python would take 50 ms of CPU each time, and seconds where a machine is busy.
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=6 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
# An init, because a preview's processes may leave children behind that somebody has to reap.
ENTRYPOINT ["tini", "--", "tailrace"]
CMD ["serve", "all"]
