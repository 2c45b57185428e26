# docker build -t http-proxy-lb .
# docker run -v ./config.yaml:/etc/http-proxy-lb/config.yaml:ro -p 8080:8080 http-proxy-lb
FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin http-proxy-lb

FROM debian:12-slim
COPY --from=build /build/target/release/http-proxy-lb /usr/bin/http-proxy-lb
# A number that belongs to nobody: the relay needs no files of its own and no port below 1024.
USER 65532:65532
# `listen` must name 0.0.0.0 (or [::]) for a published port to reach it.
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/http-proxy-lb"]
CMD ["--config", "/etc/http-proxy-lb/config.yaml"]
