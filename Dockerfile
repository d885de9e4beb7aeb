# The program in an image of its own: it, the libraries that it is linked with, certificates and a user.
# No shell, no packages, no root.
#   docker build -t overlaybd-proxy .
# With busybox besides, for health checks of Docker Compose and a look inside:
#   docker build -t overlaybd-proxy:shell --target shell .
# Of a binary that is there already:
#   examples/container/rootfs.sh target/dist/overlaybd-proxy image/rootfs
#   docker build -t overlaybd-proxy -f Dockerfile --target prebuilt image

FROM scratch AS base
# Without another setting, everything is kept in /var/lib/overlaybd-proxy: mount a volume there.
ENV XDG_DATA_HOME=/var/lib
USER 65532:65532
EXPOSE 8480 8481
ENTRYPOINT ["/usr/bin/overlaybd-proxy"]
CMD ["serve"]

FROM base AS prebuilt
COPY rootfs/ /

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked \
    && examples/container/rootfs.sh target/dist/overlaybd-proxy /rootfs

FROM build AS busybox
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static \
    && install -D /bin/busybox /shell/usr/bin/busybox && mkdir /shell/bin \
    && ln -s /usr/bin/busybox /shell/bin/sh && ln -s busybox /shell/usr/bin/wget

FROM base AS shell
COPY --from=build /rootfs/ /
COPY --from=busybox /shell/ /

FROM base
COPY --from=build /rootfs/ /
