# shellcheck shell=bash
# Shared by the scripts here: paths, steps, failures. Sourced by tools.sh.

set -euo pipefail

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
