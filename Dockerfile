# docker build -t http-proxy-lb .
# docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:9090:9090 -e HTTP_PROXY_LB_UPSTREAMS=http://proxy1.example:3128 http-proxy-lb
#
# Or with a folder that has your config.yaml: -v ./config:/etc/http-proxy-lb:ro
# The image has the program, the C library it needs, and a configuration; no shell and no other program.
FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
# What --version tells; needed only where the sources are no checkout.
ARG SOURCE_COMMIT
RUN cargo build --release --locked --bin http-proxy-lb
# What it is linked to, under the names it looks for; names are resolved by the C library itself. A
# relay may be root nowhere, so nothing here is its own but /tmp, which a read-only root does without.
RUN set -eu; \
    install -D -m 755 target/release/http-proxy-lb /image/usr/bin/http-proxy-lb; \
    for library in $(ldd target/release/http-proxy-lb | grep -o '/[^ ]*'); do \
      install -D -m 755 "$library" "/image$library"; \
    done; \
    install -D -m 644 packaging/container/config.yaml /image/etc/http-proxy-lb/config.yaml; \
    install -D -m 644 LICENSE /image/usr/share/doc/http-proxy-lb/LICENSE; \
    echo 'hosts: files dns' >/image/etc/nsswitch.conf; \
    echo 'http-proxy-lb:x:65532:65532::/:/nonexistent' >/image/etc/passwd; \
    echo 'http-proxy-lb:x:65532:' >/image/etc/group; \
    install -d -m 1777 /image/tmp

FROM scratch
LABEL org.opencontainers.image.title="http-proxy-lb" \
      org.opencontainers.image.description="A load balancer for HTTP proxies" \
      org.opencontainers.image.source="https://github.com/http-proxy-lb/http-proxy-lb" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /image /
# A number that belongs to nobody: the relay needs no files of its own and no port below 1024.
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Whether it lives, not whether an upstream does: a restart would not help those. The address, not the
# configuration: that may be broken by the last edit, while what is in force still serves.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
  CMD ["/usr/bin/http-proxy-lb", "status", "--live", "--admin", "http://127.0.0.1:9090"]
# No argument, so that options can follow the name of the image.
ENV HTTP_PROXY_LB_CONFIG=/etc/http-proxy-lb/config.yaml
ENTRYPOINT ["/usr/bin/http-proxy-lb"]
