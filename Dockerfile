# colophon in a container: the program, the certificates it checks servers by, and a shell for a look at files.
#
#   docker build -t colophon:0.1.0 .
#   docker run --rm --read-only -v "$PWD/data:/data" -u "$(id -u):$(id -g)" colophon:0.1.0 summary /data
#
# There is no CUDA toolkit inside: the driver's libraries come from the node, put there by NVIDIA's container runtime.
# k8s/tests/image runs these steps in a bare Debian root.

FROM rust:1.95.0-slim-bookworm AS build
# aws-lc, which the uploads use, wants make and cmake on some machines; g++ is for it and for the emulator's tests.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY kernels kernels
COPY benches benches
COPY src src
ENV CARGO_PROFILE_RELEASE_STRIP=symbols
RUN cargo build --locked --release --bin colophon

FROM debian:bookworm-slim
# <runtime>
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgcc-s1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
# </runtime>
COPY --from=build /src/target/release/colophon /usr/local/bin/colophon
COPY LICENSE /usr/share/doc/colophon/LICENSE

# What NVIDIA's container runtime mounts: the driver (compute) and nvidia-smi (utility). Which GPUs there are,
# NVIDIA_VISIBLE_DEVICES, is the device plugin's to say: set here, it would give GPUs to containers that asked for none.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# A number, so that Kubernetes can see that it is not root. The root file system may be read-only.
USER 65532:65532
WORKDIR /data
# The program is process 1 and listens to SIGTERM itself: no shell and no init between.
ENTRYPOINT ["/usr/local/bin/colophon"]
CMD ["--help"]
