# shellcheck shell=bash
# Shared by the scripts here: help, paths, steps, failures, the revision. Sourced by tools.sh.

set -euo pipefail

# has_flag FLAG… -- ARGUMENT…: true if one of the flags is among the arguments, also as FLAG=VALUE.
has_flag() {
    local flags=() flag argument
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    for argument in "$@"; do
        for flag in "${flags[@]}"; do
            [[ $argument != "$flag" && $argument != "$flag="* ]] || return 0
        done
    done
    return 1
}

# --help prints the comment at the top of a script: what it does, needs and leaves. A script whose program adds flags of its
# own sets `more_help` before it sources this, and goes on.
if has_flag --help -h -- "$@"; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    [ -n "${more_help-}" ] || exit 0
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

# Tools that only the tests and the demo need are kept beside the build: ignored by git, kept between runs.
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# shellcheck disable=SC2034 # used by tools.sh
tools=$target/tools

# Nothing here may wait for input.
exec </dev/null

# What scripts/bench --readme writes into the documentation: the last complete result of each long run.
# shellcheck disable=SC2034 # used by the scripts
results=$target/results

# source_revision: the last commit that changed what the binary is built from. Commits that only change documents or tests do
# not make a result outdated.
source_revision() {
    local sources=(src Cargo.toml Cargo.lock .cargo)
    printf '%s%s\n' "$(git log -1 --format=%h -- "${sources[@]}")" \
        "$([ -z "$(git status --porcelain -- "${sources[@]}")" ] || echo ' with changes')"
}

current_step='starting'

# step NAME: announces what follows. A failure names it.
step() {
    current_step=$1
    printf '\n== %s\n' "$current_step"
}

# fail MESSAGE [REMEDY]: prints what failed and how to fix it, and ends the run.
fail() {
    printf '\nfailed: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then
        printf 'to fix it: %s\n' "$2" >&2
    fi
    trap clean_up EXIT
    exit 1
}

# clean_up_at_the_end COMMAND: runs it however the script ends, the last one first.
clean_ups=()
clean_up_at_the_end() {
    clean_ups=("$1" "${clean_ups[@]}")
}
clean_up() {
    local command
    for command in "${clean_ups[@]}"; do eval "$command" || true; done
}

report_the_failed_step() {
    local status=$?
    clean_up
    if [ "$status" -ne 0 ]; then
        printf '\nfailed at step: %s (exit status %s)\n' "$current_step" "$status" >&2
    fi
}
trap report_the_failed_step EXIT
