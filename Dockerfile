# A small image of ktcpvs, which runs without root. `make image` builds it with the version of the last tag.
#
#   docker run -v ./ktcpvs.conf:/etc/ktcpvs/ktcpvs.conf:ro -p 80:80 ktcpvs
#   docker exec NAME tcpvsadm --list --stats
#
# BASE must have Python 3.11 or later as python3, with its module venv, and Debian's apt.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG VERSION=0.1.dev0
ENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_KTCPVS=${VERSION} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
SHELL ["/bin/sh", "-euc"]
# Only the build has the compiler, so any version of it will do. The images of Python have the headers of theirs.
# hadolint ignore=DL3008
RUN headers=python3-dev; \
    if [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then headers=; fi; \
    apt-get update; \
    apt-get install --yes --no-install-recommends gcc libc6-dev $headers; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# PIP_CONSTRAINT holds for what builds the wheel too. The installation goes on without the compiled extensions, and the
# image does not. The plugins of Twisted are listed once, since the user of the image
# cannot write that list.
RUN python3 -m venv /opt/ktcpvs; \
    PIP_CONSTRAINT=constraints.txt /opt/ktcpvs/bin/pip install '.[tls,acme,cluster,otel]'; \
    find ktcpvs -name '_*.c' | while read -r name; do \
        ls /opt/ktcpvs/lib/python3*/site-packages/"${name%.c}".*.so; \
    done; \
    /opt/ktcpvs/bin/python3 -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'; \
    /opt/ktcpvs/bin/pip uninstall --yes pip setuptools; \
    install -d -m 0755 /image/etc/ktcpvs/conf.d; \
    install -m 0644 debian/conf/ktcpvs.conf /image/etc/ktcpvs/ktcpvs.conf

FROM ${BASE}
ARG VERSION=0.1.dev0
LABEL org.opencontainers.image.title="ktcpvs" \
      org.opencontainers.image.description="A layer-7 switch for TCP services, operated like LVS" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/ktcpvs /opt/ktcpvs
COPY --from=build /image/ /
# The kernel lets every user of a container listen on ports below 1024, where the runtime leaves its default as it is.
RUN groupadd --gid 8080 ktcpvs && \
    useradd --uid 8080 --gid ktcpvs --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin ktcpvs && \
    install -d -o ktcpvs -g ktcpvs -m 0755 /run/ktcpvs && \
    install -d -o ktcpvs -g ktcpvs -m 0700 /var/lib/ktcpvs && \
    ln -s /opt/ktcpvs/bin/ktcpvs /opt/ktcpvs/bin/tcpvsadm /usr/local/bin/
ENV KTCPVS_CONTROL=unix:/run/ktcpvs/control.sock \
    PYTHONDONTWRITEBYTECODE=1
USER 8080:8080
VOLUME ["/var/lib/ktcpvs"]
STOPSIGNAL SIGTERM
# Healthy: the daemon answers, and is neither starting nor draining.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["tcpvsadm", "--wait-ready", "4"]
ENTRYPOINT ["ktcpvs", "--control", "unix:/run/ktcpvs/control.sock", "--status", "tcp:9109"]
CMD ["--config", "/etc/ktcpvs/ktcpvs.conf"]
