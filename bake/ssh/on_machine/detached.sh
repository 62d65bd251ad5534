#!/usr/bin/env bash
# Runs a stage on the machine: starts it once, sends its output, and ends it at its time limit.
#
#   start  DIR BOOT_ID OFFSET LIMIT_S SIZE…   stdin: see receive, then "read"
#   attach DIR BOOT_ID OFFSET                 stdin: "read"
#   stop   DIR
#
# stdout carries only the stage's output, from OFFSET on. stderr carries lines `bake: …`:
#   running                    the stage runs or has ended, and its output follows
#   ended STATUS SIZE          the stage has ended; SIZE is the size of its output
#   rebooted, gone             the machine was rebooted; the stage's folder does not exist
#   another                    a stage with other files already has this folder
#   incomplete                 the files have not arrived completely
# "read" confirms that all output has arrived; then the stage's folder is removed. The program is an
# argument of `bash -c`, not a file.
#
# DIR contains: script, lib.sh, inputs, and the folder files if the stage has files (until the stage has
# ended); identity (a line that differs when these differ); output; lock (held until the stage has ended,
# or its supervisor was killed). It also contains two symbolic links, because a link is created atomically
# and needs no space on a full file system: pid (of the stage's process group) and status (with the size
# of the output).
set -o errexit -o nounset -o pipefail
umask 077

main() {
    local verb=$1 dir=$2
    shift 2
    case $verb in
        start)
            same_boot "$1"
            start "$dir" "${@:3}"
            follow "$dir" "$2"
            ;;
        attach)
            same_boot "$1"
            still_exists "$dir"
            follow "$dir" "$2"
            ;;
        supervise) supervise "$dir" "$@" ;;
        stop) stop "$dir" ;;
    esac
}

say() {
    printf 'bake: %s\n' "$*" >&2
}

same_boot() {
    [[ $(boot_id) == "$1" ]] || { say rebooted && return 1; }
}

still_exists() {
    [[ -d $1 ]] || { say gone && return 1; }
}

start() {
    local dir=$1 limit_s=$2 sizes=("${@:3}") new="$1.$$.$RANDOM" identity
    mkdir --parents "$new"
    if ! receive "$new" "${sizes[@]}"; then
        rm --recursive "$new"
        say incomplete
        return 1
    fi
    : >"$new/output"

    # The lock is held before the folder appears. So a free lock means that the supervisor has ended.
    exec 9>"$new/lock"
    flock 9
    if mv --no-target-directory "$new" "$dir" 2>/dev/null; then
        setsid bash -c "$BASH_EXECUTION_STRING" bake supervise "$dir" "$limit_s" </dev/null >/dev/null 2>&1 &
    else
        identity=$(<"$new/identity")
        rm --recursive "$new"
        [[ $(<"$dir/identity") == "$identity" ]] || { say another && return 1; }
    fi
    exec 9>&-
}

# receive DIR SCRIPT_SIZE LIB_SIZE INPUTS_SIZE FILES_SIZE: the files are a tar archive, or nothing.
receive() {
    local identity end
    read -r identity && printf '%s\n' "$identity" >"$1/identity" || return 1
    # head reads exactly the given number of bytes. A broken connection looks like an end of file, so a
    # last line confirms that everything has arrived.
    head --bytes="$2" >"$1/script" && head --bytes="$3" >"$1/lib.sh" && head --bytes="$4" >"$1/inputs" &&
        head --bytes="$5" >"$1/archive" && read -r end && [[ $end == "$identity" ]] || return 1
    [[ ! -s $1/archive ]] || {
        mkdir --mode 755 "$1/files"
        tar --extract --file "$1/archive" --directory "$1/files" --preserve-permissions || return 1
    }
    rm "$1/archive"
}

supervise() {
    local dir=$1 limit_s=$2 given=() pid status=0
    [[ ! -d $dir/files ]] || given=(BAKE_FILES="$dir/files")
    cd /
    umask 022
    # shellcheck disable=SC2016  # expanded by the inner bash: "$0" is the inputs, "$1" the script
    setsid env --ignore-environment \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        BAKE_LIB="$dir/lib.sh" "${given[@]}" \
        timeout --kill-after=10 "$limit_s" bash -c '. "$0" && exec bash "$1"' "$dir/inputs" "$dir/script" \
        </dev/null >>"$dir/output" 2>&1 9>&- &
    pid=$!
    ln --symbolic "$pid" "$dir/pid" || true
    wait "$pid" || status=$?
    ((SECONDS < limit_s)) || [[ $status != @(124|137) ]] || status=timeout
    # Processes that still run in the stage's group would continue to write into the image and the log.
    kill -KILL -- "-$pid" 2>/dev/null || true
    cd "$dir" # the path may lead to a later stage's folder before the last line has run
    # A daemon that has left the group may continue to write. The present size is the end of the output.
    ln --symbolic "$status $(stat --format=%s output)" status
    exec 9>&-
    rm --recursive --force script lib.sh inputs files
}

follow() {
    local dir=$1 offset=$2 confirmation
    cd "$dir" # a follower without a client must not follow a later stage of the same name
    say running
    # flock waits for the end of the supervisor, and tail for the end of flock. Then tail reads the rest.
    flock --shared lock true &
    tail --follow --bytes="+$((offset + 1))" --sleep-interval=0.02 --pid=$! output </dev/null
    if [[ -L status ]]; then
        say "ended $(readlink status)"
    else # the supervisor was killed, so its stage is killed, too
        kill -KILL -- "-$(readlink pid)" 2>/dev/null || true
        say ended lost "$(stat --format=%s output)"
    fi
    read -r -t 60 confirmation
    [[ $confirmation != read || ! . -ef $dir ]] || forget "$dir"
}

stop() {
    local dir=$1 pid
    [[ -d $dir ]] || return 0
    while ! flock --nonblock --shared "$dir/lock" true; do
        # A stage that has just been started has no process group yet: repeat.
        if pid=$(readlink "$dir/pid") && kill -TERM -- "-$pid" 2>/dev/null; then
            kill -CONT -- "-$pid" 2>/dev/null || true # a stopped process would not handle the SIGTERM
            flock --wait 5 --shared "$dir/lock" true || kill -KILL -- "-$pid" 2>/dev/null || true
        fi
        sleep 0.05
    done
    forget "$dir"
}

forget() {
    mv --no-target-directory "$1" "$1.gone.$$"
    rm --recursive --force "$1.gone.$$"
}

main "$@"
