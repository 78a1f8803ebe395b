# Where everything runs without a root of its own: Rust, Python, Swift 6, clang 19 and GNUstep.
#   docker build -t umfa . && docker run --rm -v "$PWD:/umfa" umfa cargo xtask test
FROM debian:trixie
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      rustup python3 python3-venv gcc g++ libc6-dev make cmake pkg-config binutils git ca-certificates \
      swiftlang clang-19 clang-tools-19 libclang-rt-19-dev gobjc gnustep-devel \
      debootstrap \
    && apt-get clean
RUN rustup toolchain install stable --profile minimal --component clippy --component rustfmt
WORKDIR /umfa
CMD ["cargo", "xtask", "test"]
