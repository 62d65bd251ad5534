#!/usr/bin/env bash
# Removes the keys and the identity of this machine from its disk, flushes the disk, and restores them when
# stdin contains "release". Arguments: the seconds to wait for "release", and the expected boot id. The
# program is an argument of `bash -c`, not a file.
#
# Prints "held" when the disk is ready, and "released" when everything is restored. If stdin ends, the time
# is over or a signal arrives, everything is restored, too, and the exit status is not 0.
#
# The removed files are kept in memory, as an archive. If the machine loses its power meanwhile, its disk
# looks like the disk of a machine before its first boot. It then boots with the same user data as the
# first time, and the same keys give access to it.
set -o errexit -o nounset -o pipefail
shopt -s nullglob dotglob
umask 077
cd /

kept='' # the folder in memory with the archive; empty when nothing is removed

main() {
    local limit_s=$1 boot_id=$2 word=''
    trap '' PIPE # the files are restored even if the client has closed the connection
    trap 'exit 1' HUP INT TERM
    trap restore EXIT
    [[ $(stat --file-system --format=%T /run) == tmpfs ]] || fail "/run is not in memory"
    [[ $(boot_id) == "$boot_id" ]] || fail "it was rebooted, and no stage has declared a reboot"
    wait_for_cloud_init
    exec 9>/run/bake-hold.lock
    flock --wait "$limit_s" 9 || fail "it is held already"
    remove_traces
    in_container || sync # in a container, sync would wait for all writes of the host
    say held
    read -r -t "$limit_s" word || true
    [[ $word == release ]] || fail "no release was received: everything is restored"
    restore
    say released
}

say() {
    printf '%s\n' "$*" || true
}

fail() {
    printf '%s\n' "$*" >&2 || true
    exit 1
}

# SSH answers before cloud-init has ended, which still writes some of the files that are removed here.
wait_for_cloud_init() {
    until [[ ! -e /run/cloud-init/status.json || -e /run/cloud-init/result.json ]]; do
        ((SECONDS < 60)) || fail "cloud-init did not end within 60 s"
        sleep 0.1
    done
}

# list_traces: print the existing paths to remove, relative to /, each followed by a zero byte.
list_traces() {
    local home trace
    local traces=(
        etc/ssh/ssh_host_* etc/ssh/authorized_keys*
        var/lib/cloud/* # contains the user data and the script that powers the machine off
        var/lib/dbus/machine-id var/lib/systemd/{random-seed,credential.secret} var/lib/urandom/random-seed
        var/lib/ubuntu-advantage/private/* etc/apt/auth.conf.d/90ubuntu-advantage var/lib/amazon/ssm/Vault
        var/lib/dkms/mok.* var/lib/shim-signed/mok/* var/lib/fwupd/pki/* # keys with which it signs
    )
    while read -r home; do
        traces+=("${home#/}"/.ssh/authorized_keys*)
    done < <(getent passwd | cut --delimiter : --fields 6 | sort --unique)
    for trace in "${traces[@]}"; do
        [[ ! -e $trace && ! -L $trace ]] || printf '%s\0' "$trace"
    done
}

remove_traces() {
    local traces folder
    mapfile -d '' -t traces < <(list_traces)
    ((${#traces[@]} > 0)) || return 0
    local -A folders=()
    for folder in "${traces[@]%/*}"; do
        folders[$folder]=
    done
    local identity=()
    # Few programs read /etc/machine-id after the boot. In a container it may be the host's, mounted.
    [[ ! -s etc/machine-id ]] || mountpoint --quiet etc/machine-id || identity=(etc/machine-id)

    kept=$(mktemp --directory /run/bake-hold.XXXXXX)
    # The folders are the last entries of the archive, so that their times are restored last.
    tar --create --file "$kept/archive" --format posix --one-file-system \
        "${traces[@]}" "${identity[@]}" --no-recursion "${!folders[@]}"
    # A snapshot includes free space, so the contents of the files are overwritten. Several files are
    # overwritten at the same time, because each one waits for the disk.
    find "${traces[@]:?}" -xdev -type f -print0 |
        xargs --null --no-run-if-empty --max-args 4 --max-procs 16 \
            shred --force --iterations=1 --remove=unlink --
    rm --recursive --force --one-file-system -- "${traces[@]:?}"
    ((${#identity[@]} == 0)) || : >etc/machine-id
}

restore() {
    trap '' HUP INT TERM
    # With --absolute-names tar does not create symbolic links last, which would change the times of
    # their folders.
    [[ ! -s $kept/archive ]] || tar --extract --file "$kept/archive" --numeric-owner --absolute-names
    [[ -z $kept ]] || rm --recursive --force "$kept"
    kept=''
}

# The snapshot of a container's disk is taken by its host, so nothing has to be flushed.
in_container() {
    [[ -e /run/.containerenv || -e /.dockerenv ]] || tr '\0' '\n' </proc/1/environ | grep '^container=' >/dev/null
}

main "$@"
