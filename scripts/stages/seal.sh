#!/usr/bin/env bash
# Remove everything that belongs to this machine, to this bake or to a user. A machine that starts from the
# image makes its own keys and ids at the first boot. sshd and the connection of this stage keep running.
# Needs:  *
# Inputs: LOGIN_USER
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"
shopt -s nullglob dotglob

# list_traces: print the existing paths that must not be in an image. Credentials are not among them: the
# check after this stage reports them, so that their author corrects the stage that left them.
list_traces() {
    local home
    local traces=(
        /etc/ssh/ssh_host_* /etc/ssh/ssh_known_hosts
        /var/lib/dbus/machine-id /var/lib/amazon/ssm/*
        /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/urandom/random-seed
        /boot/efi/loader/random-seed
        /var/lib/cloud/* /run/cloud-init/*
        /var/lib/dhcp/*lease* /var/lib/dhclient/*lease* /var/lib/dhcpcd*/*lease*
        /var/lib/NetworkManager/*lease* /var/lib/NetworkManager/secret_key /run/systemd/netif/leases/*
        # cloud-init writes these at the first boot, for the network interfaces of that machine
        /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/udev/rules.d/70-persistent-net.rules
        /var/lib/apt/lists/* /var/lib/apt/periodic/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
        /var/cache/apt/archives/partial/* /opt/conda/pkgs/cache /opt/conda/pkgs/*.conda /opt/conda/pkgs/*.tar.bz2
        /var/crash/* /var/lib/systemd/coredump/* /var/lib/systemd/pstore/* /var/lib/apport/coredump/*
        /var/spool/mail/* /var/mail/* /var/spool/cron/crontabs/* /var/spool/cron/atjobs/* /var/account/pacct*
        /tmp/* /var/tmp/*
    )
    while IFS= read -r home; do
        home=${home%/}
        traces+=(
            "$home"/.ssh/authorized_keys* "$home"/.ssh/known_hosts* "$home"/.gnupg/random_seed
            "$home"/.*history "$home"/.*_history* "$home"/.*_hist "$home"/.*.sw[a-p] "$home"/.local/share/*history*
            "$home"/.local/share/*/*history* "$home"/.local/share/jupyter/*.db "$home"/.local/share/jupyter/*secret*
            "$home"/.local/share/jupyter/runtime "$home"/.local/share/nvim/shada "$home"/.local/state/*hist*
            "$home"/.ipython/*/history.sqlite* "$home"/.ipython/*/db "$home"/.jupyter/lab/workspaces
            "$home"/.lesshst "$home"/.vim/.netrwhist "$home"/.viminfo* "$home"/.wget-hsts
            "$home"/.npm/_cacache "$home"/.npm/_logs "$home"/.nv/ComputeCache "$home"/.conda/pkgs
            "$home"/.cache "$home"/.xsession-errors* "$home"/.sudo_as_admin_successful
        )
    done < <({ cut --delimiter=: --fields=6 /etc/passwd && printf '%s\n' /root /home/*; } | sort --unique)
    local trace
    for trace in "${traces[@]}"; do
        # The stage's own files are still needed. They are removed when the stage ends.
        [[ ! -e $trace && ! -L $trace || ${BAKE_LIB%/*}/ == "$trace"/* ]] || printf '%s\n' "$trace"
    done
}

# list_filled: print the files that must be empty but are not.
list_filled() {
    find /var/log /etc/machine-id -type f -size +0
    # A symbolic link belongs to systemd-resolved, and a mounted file to the container's host.
    if [[ -f /etc/resolv.conf && ! -L /etc/resolv.conf ]] && ! mountpoint --quiet /etc/resolv.conf; then
        find /etc/resolv.conf -size +0
    fi
}

# First stop the services that would write these files again; the journal continues in memory. The boot may
# still be in progress: a machine from a checkpoint may have no other stage to run before this one.
[[ ! -e /run/cloud-init/status.json ]] || timeout 300 cloud-init status --wait >/dev/null || true
if command -v systemctl >/dev/null && [[ -d /run/systemd/system ]]; then
    for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service syslog.socket rsyslog.service; do
        systemctl stop "$unit" 2>/dev/null || true
    done
    journalctl --relinquish-var 2>/dev/null || true
fi

apt_get clean
! command -v cloud-init >/dev/null || cloud-init clean --logs

find /var/log -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' -o -name '*.journal*' \) -delete
removed=0 emptied=0
for pause in 0 1 2; do # some processes (init, for logins) may write another line during the removal
    sleep "$pause"
    mapfile -t files < <(list_filled)
    ((${#files[@]} == 0)) || truncate --size 0 "${files[@]}"
    mapfile -t traces < <(list_traces)
    ((${#traces[@]} == 0)) || rm --recursive --force --one-file-system "${traces[@]}"
    removed=$((removed + ${#traces[@]})) emptied=$((emptied + ${#files[@]}))
    in_container || sync # in a container, sync would wait for all writes of the host
    mapfile -t left < <(list_traces && list_filled)
    ((${#left[@]} > 0)) || break
done
((${#left[@]} == 0)) || fail "not removed: ${left[*]}"
say "sealed: $removed traces removed, $emptied files emptied"
