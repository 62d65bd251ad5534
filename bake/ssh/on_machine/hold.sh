#!/usr/bin/env bash
# The machine's side of a hold: what opens this machine, and what it could pass for itself with, is
# off its disk and the disk is flushed, until stdin says "release". Its arguments: how many seconds it
# waits for that, and the boot that it has to be. The text is given to `bash -c`: no file of it exists.
#
# stdout: "held", and "released" once everything is back. Whatever else happens (stdin ends, nobody
# says anything for too long, a signal) everything is put back too, and the status is not 0.
#
# All of it is kept in memory, as an archive. Should the machine lose its power meanwhile, then its disk is
# what the snapshot is: that of a machine before its first boot. It boots, is told the same by the
# cloud as the first time, and can be reached by the same keys.
set -o errexit -o nounset -o pipefail
shopt -s nullglob dotglob
umask 077
cd /

kept='' # the folder in memory, as long as something is in it

main() {
    local limit_s=$1 boot_id=$2 word=''
    trap '' PIPE # who listened may be gone; what was taken away is put back all the same
    trap 'exit 1' HUP INT TERM
    trap put_back EXIT
    [[ $(stat --file-system --format=%T /run) == tmpfs ]] || fail "/run is not in memory"
    [[ $(</proc/sys/kernel/random/boot_id) == "$boot_id" ]] || fail "it was rebooted, and no stage said that it would"
    wait_for_cloud_init
    exec 9>/run/bake-hold.lock
    flock --wait "$limit_s" 9 || fail "it is held already"
    take_away
    in_container || sync # a container's would wait for everything that its host has to write
    say held
    read -r -t "$limit_s" word || true
    [[ $word == release ]] || fail "nobody asked for its release: everything is back"
    put_back
    say released
}

say() {
    printf '%s\n' "$*" || true
}

fail() {
    printf '%s\n' "$*" >&2 || true
    exit 1
}

# In its last seconds cloud-init still writes what is taken away here; SSH answers before that.
wait_for_cloud_init() {
    until [[ ! -e /run/cloud-init/status.json || -e /run/cloud-init/result.json ]]; do
        ((SECONDS < 60)) || fail "cloud-init has not come to its end"
        sleep 0.1
    done
}

# list_traces: relative to /, each ended by a zero byte.
list_traces() {
    local home trace
    local traces=(
        etc/ssh/ssh_host_* etc/ssh/authorized_keys*
        var/lib/cloud/* # the user data, and the script that powers the machine off, too
        var/lib/dbus/machine-id var/lib/systemd/{random-seed,credential.secret} var/lib/urandom/random-seed
        var/lib/ubuntu-advantage/private/* var/lib/amazon/ssm/Vault
    )
    while read -r home; do
        traces+=("${home#/}"/.ssh/authorized_keys*)
    done < <(getent passwd | cut --delimiter : --fields 6 | sort --unique)
    for trace in "${traces[@]}"; do
        [[ ! -e $trace && ! -L $trace ]] || printf '%s\0' "$trace"
    done
}

take_away() {
    local traces folder
    mapfile -d '' -t traces < <(list_traces)
    ((${#traces[@]} > 0)) || return 0
    local -A folders=()
    for folder in "${traces[@]%/*}"; do
        folders[$folder]=
    done
    local identity=()
    # Read at boot and by few programs after it; a container's may be its host's.
    [[ ! -s etc/machine-id ]] || mountpoint --quiet etc/machine-id || identity=(etc/machine-id)

    kept=$(mktemp --directory /run/bake-hold.XXXXXX)
    # The folders come last, so that they get their times back last.
    tar --create --file "$kept/archive" --format posix --one-file-system \
        "${traces[@]}" "${identity[@]}" --no-recursion "${!folders[@]}"
    # Free space is a part of a snapshot: what was in it must not be readable there either.
    # Side by side, since each waits for the disk.
    find "${traces[@]:?}" -xdev -type f -print0 |
        xargs --null --no-run-if-empty --max-args 4 --max-procs 16 \
            shred --force --iterations=1 --remove=unlink --
    rm --recursive --force --one-file-system -- "${traces[@]:?}"
    ((${#identity[@]} == 0)) || : >etc/machine-id
}

put_back() {
    trap '' HUP INT TERM
    # With --absolute-names no symbolic link waits for the end, where it would change its folder's time.
    [[ ! -s $kept/archive ]] || tar --extract --file "$kept/archive" --numeric-owner --absolute-names
    [[ -z $kept ]] || rm --recursive --force "$kept"
    kept=''
}

# A container's disk is taken as its host sees it, flushed or not.
in_container() {
    [[ -e /run/.containerenv || -e /.dockerenv ]] || tr '\0' '\n' </proc/1/environ | grep '^container=' >/dev/null
}

main "$@"
