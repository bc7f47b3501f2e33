# shellcheck shell=bash
# How the release binary is built: static, and without any trace of the directory, the user or the time.
# Sourced by scripts/build, after tools.sh.

# commit_of_tree: the commit, with -dirty if the tree differs from it. PCS_COMMIT takes precedence: the Containerfile has no git.
# The length is fixed, or git would choose it by the size of the repository.
commit_of_tree() {
    if [ -n "${PCS_COMMIT:-}" ]; then
        echo "$PCS_COMMIT"
    elif ! git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
        echo unknown
    elif [ -n "$(git status --porcelain)" ]; then
        echo "$(git rev-parse --short=12 HEAD)-dirty"
    else
        git rev-parse --short=12 HEAD
    fi
}

# Where a format has a build time, the time of the commit is used.
source_date_epoch() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
}

# need_c_compiler_for TARGET: ring (cryptography) and the allocator contain C and assembler.
need_c_compiler_for() {
    case $1 in
        *-musl)
            command -v musl-gcc >/dev/null || debian_packages 'a C compiler for musl (musl-gcc)' musl-tools
            ;;
        aarch64-*-gnu)
            [ "$(uname -m)" = aarch64 ] || command -v aarch64-linux-gnu-gcc >/dev/null ||
                debian_packages 'a C compiler for aarch64' gcc-aarch64-linux-gnu libc6-dev-arm64-cross
            ;;
    esac
    if [ "$1" = aarch64-unknown-linux-musl ] && [ "$(uname -m)" != aarch64 ]; then
        fail 'no Debian package has a C compiler that builds for aarch64 with musl' "build on an aarch64 machine, or for aarch64-unknown-linux-gnu"
    fi
    command -v readelf >/dev/null || debian_packages readelf binutils
}

# release_environment TARGET: sets the environment of cargo. Call it after `cargo fetch`.
release_environment() {
    local triple=$1 home=${CARGO_HOME:-$HOME/.cargo} flags=() sources underscored
    # Static. Random numbers come from the system call, because there may be no /dev.
    flags+=(-C target-feature=+crt-static --cfg 'getrandom_backend="linux_getrandom"')
    # Panic messages contain paths. Each registry has a directory of crates.
    for sources in "$home"/registry/src/*/; do
        flags+=("--remap-path-prefix=${sources%/}=/crates")
    done
    flags+=("--remap-path-prefix=$target=/target" "--remap-path-prefix=$root=/src")
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037' "${flags[@]}")
    export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%?}
    unset RUSTFLAGS
    # The same for C code. The quotes are for directories with a space in their name.
    underscored=${triple//-/_}
    export "CFLAGS_$underscored='-ffile-prefix-map=$home=/crates' '-ffile-prefix-map=$target=/target'" CC_SHELL_ESCAPED_FLAGS=1
    case $triple in
        x86_64-*-musl) export "CC_$underscored=musl-gcc" ;;
        aarch64-*-gnu)
            if [ "$(uname -m)" != aarch64 ]; then
                export "CC_$underscored=aarch64-linux-gnu-gcc" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
            fi
            ;;
    esac
    PCS_COMMIT=$(commit_of_tree)
    SOURCE_DATE_EPOCH=$(source_date_epoch)
    export PCS_COMMIT SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0
}

# write_sbom TARGET FILE: the binary's components, as CycloneDX. The tool writes beside the manifest and mentions its path, so
# it works on a copy, whose path is then removed.
write_sbom() {
    local triple=$1 file=$2 copy
    copy=$(mktemp -d "$target/sbom.XXXXXX")
    cp -r Cargo.toml Cargo.lock src tests "$copy/"
    (cd "$copy" && CARGO_ENCODED_RUSTFLAGS='' cargo-cyclonedx cyclonedx --quiet --format json --spec-version 1.5 \
        --no-build-deps --target "$triple" --override-filename sbom)
    sed -e "s#path+file://$copy/#path+file:///#g; s#path+file://$copy##g; s#file://$copy##g" "$copy/sbom.json" >"$file"
    rm -rf "$copy"
}
