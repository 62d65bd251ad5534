#!/usr/bin/env bash
# Runs a check as the login user, in the environment of a login shell, and ends everything that it started.
#
# Arguments: NAME LIMIT_S GPUS INPUTS_SIZE. stdin: the inputs as shell assignments, then the script. The end
# of the check's output is printed. The exit status is the check's; 124 if its time was over. The program is
# an argument of `bash -c`, not a file.
set -o errexit -o nounset -o pipefail

main() {
    local name=$1 limit_s=$2 gpus=$3 inputs_size=$4 pid status=0
    dir=$(mktemp --directory /dev/shm/bake-check.XXXXXX) # in memory: never part of an image
    trap 'rm --recursive --force "$dir"' EXIT
    head --bytes="$inputs_size" >"$dir/inputs"
    cat >"$dir/$name.sh"
    # A process that the check leaves behind may keep its output open, so the output is not a pipe.
    # shellcheck disable=SC2016  # expanded by the inner bash: "$0" is the inputs, "$1" the script
    BAKE_GPUS=$gpus setsid timeout --kill-after=10 "$limit_s" bash --login -c '. "$0" && exec bash "$1"' \
        "$dir/inputs" "$dir/$name.sh" </dev/null >"$dir/output" 2>"$dir/errors" &
    pid=$!
    wait "$pid" 2>/dev/null || status=$? # without bash's own message about a check that was killed
    kill -KILL -- "-$pid" 2>/dev/null || true
    tail --bytes=20000 "$dir/output"
    tail --bytes=20000 "$dir/errors" >&2
    return "$status"
}

main "$@"
