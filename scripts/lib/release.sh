# shellcheck shell=bash
# How the binary that is shipped is built: static, with no trace of the folder, the user and the time.
# Sourced by scripts/build, after tools.sh.

# commit_of_tree: the commit, and whether the tree differs from it. PCS_COMMIT wins: where there is no git, as in the
# Containerfile, it says what is built. Of a fixed length, which git would else choose by the size of the repository.
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

# The time of the commit stands for the time of the build, wherever a format wants one.
source_date_epoch() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
}

# need_c_compiler_for TARGET: ring, which does the cryptography, is C and assembler in part, and so is the allocator.
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
        fail 'a C compiler that builds for aarch64 with musl is in no Debian package' "build on an aarch64 machine, or for aarch64-unknown-linux-gnu"
    fi
    command -v readelf >/dev/null || debian_packages readelf binutils
}

# release_environment TARGET: sets what cargo reads. After `cargo fetch`.
release_environment() {
    local triple=$1 home=${CARGO_HOME:-$HOME/.cargo} flags=() sources underscored
    # Static; and random numbers come from the kernel by its call, as there may be no /dev.
    flags+=(-C target-feature=+crt-static --cfg 'getrandom_backend="linux_getrandom"')
    # Paths get into the binary by the messages of panics. Crates lie in a directory for each registry.
    for sources in "$home"/registry/src/*/; do
        flags+=("--remap-path-prefix=${sources%/}=/crates")
    done
    flags+=("--remap-path-prefix=$target=/target" "--remap-path-prefix=$root=/src")
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037' "${flags[@]}")
    export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%?}
    unset RUSTFLAGS
    # The same for what is C; in quotes, as a folder may hold a space.
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

# write_sbom TARGET FILE: what the binary is made of, as CycloneDX. The tool writes beside the manifest and tells the
# path of it, so it is given a copy, whose path is cut out.
write_sbom() {
    local triple=$1 file=$2 copy
    copy=$(mktemp -d "$target/sbom.XXXXXX")
    cp -r Cargo.toml Cargo.lock src tests "$copy/"
    (cd "$copy" && CARGO_ENCODED_RUSTFLAGS='' cargo-cyclonedx cyclonedx --quiet --format json --spec-version 1.5 \
        --no-build-deps --target "$triple" --override-filename sbom)
    sed -e "s#path+file://$copy/#path+file:///#g; s#path+file://$copy##g; s#file://$copy##g" "$copy/sbom.json" >"$file"
    rm -rf "$copy"
}
