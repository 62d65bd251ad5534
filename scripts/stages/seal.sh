#!/usr/bin/env bash
# Remove everything that belongs to this machine, to this bake or to a user. A machine that starts from the
# image makes its own keys and ids. sshd and the connection of this stage keep running. What services write
# until they end is removed again when the machine shuts down for the image.
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
        # Both halves: with a certificate and no key, Ubuntu's shim-signed never makes a new key
        /var/lib/dkms/mok.key /var/lib/dkms/mok.pub /var/lib/shim-signed/mok/* /var/lib/fwupd/pki/*
        /var/lib/dbus/machine-id /etc/nvme/hostnqn /etc/nvme/hostid /var/lib/whoopsie/whoopsie-id
        # a machine from an image of Ubuntu Pro attaches itself to its subscription if it has no token
        /var/lib/ubuntu-advantage/private/* /etc/apt/auth.conf.d/90ubuntu-advantage
        /var/lib/snapd/device/* /var/lib/snapd/assertions/asserts-v0/serial/*
        /etc/docker/key.json /var/lib/docker/engine-id
        /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/urandom/random-seed
        /boot/efi/loader/random-seed /var/lib/postfix/prng_exch
        /var/lib/cloud/* /run/cloud-init/*
        /var/lib/dhcp/*lease* /var/lib/dhclient/*lease* /var/lib/dhcpcd*/*lease*
        /var/lib/NetworkManager/*lease* /var/lib/NetworkManager/secret_key /run/systemd/netif/leases/*
        # the builder's addresses, for the message at a login
        /var/lib/landscape/landscape-sysinfo.cache
        # cloud-init writes these at the first boot, for the network interfaces of that machine
        /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/udev/rules.d/70-persistent-net.rules
        /var/lib/apt/lists/* /var/lib/apt/periodic/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
        /var/cache/apt/archives/partial/* /var/cache/dnf/* /var/cache/yum/* /opt/conda/pkgs/cache /opt/conda/pkgs/*.conda /opt/conda/pkgs/*.tar.bz2
        /var/crash/* /var/lib/systemd/coredump/* /var/lib/systemd/pstore/* /var/lib/apport/coredump/*
        /var/spool/mail/* /var/mail/* /var/spool/cron/crontabs/* /var/spool/cron/atjobs/* /var/account/pacct*
        /tmp/* /var/tmp/*
    )
    while IFS= read -r home; do
        home=${home%/}
        traces+=(
            "$home"/.ssh/authorized_keys* "$home"/.ssh/known_hosts* "$home"/.gnupg/random_seed "$home"/.rnd
            "$home"/.*history "$home"/.*_history* "$home"/.*_hist "$home"/.*.sw[a-p] "$home"/.local/share/*history*
            "$home"/.local/share/*/*history* "$home"/.local/share/jupyter/*.db "$home"/.local/share/jupyter/*secret*
            "$home"/.local/share/jupyter/runtime "$home"/.local/share/nvim/shada "$home"/.local/state/*hist*
            "$home"/.ipython/*/history.sqlite* "$home"/.ipython/*/db "$home"/.jupyter/lab/workspaces
            "$home"/.lesshst "$home"/.vim/.netrwhist "$home"/.viminfo* "$home"/.wget-hsts
            "$home"/.npm/_cacache "$home"/.npm/_logs "$home"/.nv/ComputeCache "$home"/.conda/pkgs
            "$home"/.cache "$home"/.xsession-errors* "$home"/.sudo_as_admin_successful
        )
    done < <({ cut --delimiter=: --fields=6 /etc/passwd && printf '%s\n' /root /home/*; } | sort --unique)
    [[ -n ${agent_in_use:-} ]] || traces+=(/var/lib/amazon/ssm/*)
    local trace
    for trace in "${traces[@]}"; do
        # The stage's own files are still needed. They are removed when the stage ends.
        [[ ! -e $trace && ! -L $trace || ${BAKE_LIB:-}/ == "$trace"/* ]] || printf '%s\n' "$trace"
    done
}

# list_filled: print the files that must be empty but are not.
list_filled() {
    find /var/log /etc/machine-id ${agent_in_use:+-path /var/log/amazon/ssm -prune -o} -type f -size +0 -print
    local file
    for file in /etc/hostname /etc/resolv.conf; do # cloud-init and the DHCP client write them at the boot
        # A symbolic link belongs to systemd-resolved, and a mounted file to the container's host.
        [[ ! -f $file || -L $file ]] || mountpoint --quiet "$file" || find "$file" -size +0
    done
}

# remove_and_empty: remove the traces and empty the files. Sets `traces` and `files` to what it has found.
remove_and_empty() {
    find /var/log -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' -o -name '*.journal*' \) -delete
    mapfile -t files < <(list_filled)
    ((${#files[@]} == 0)) || truncate --size 0 "${files[@]}"
    mapfile -t traces < <(list_traces)
    ((${#traces[@]} == 0)) || rm --recursive --force --one-file-system "${traces[@]}"
}

# The SSM agent's workers outlive its service, which has KillMode=process.
kill_agent_workers() { pkill -KILL '^ssm-' || true; }

# stop_services: stop the services that write these files while the machine runs, and every timer. The mask,
# which is in memory, prevents that a login or a request over D-Bus starts them again.
stop_services() {
    local units=(
        unattended-upgrades.service syslog.socket rsyslog.service
        fwupd-refresh.service fwupd.service snapd.socket snapd.service
    )
    [[ -n $agent_in_use ]] || units+=(amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service)
    # Some of them exist only on Debian, or only on Ubuntu.
    systemctl mask --runtime "${units[@]}" 2>/dev/null || true
    systemctl stop '*.timer' "${units[@]}" 2>/dev/null || true
    [[ -n $agent_in_use ]] || kill_agent_workers
    journalctl --relinquish-var 2>/dev/null || true # the journal continues in memory
}

# remove_again_at_shutdown: remove the traces again when all services have ended. Some write as they end
# (systemd-random-seed, systemd-update-utmp, a DHCP client), and some cannot be stopped now (sshd, an agent that
# carries this connection). A service whose unit and program are in memory, and therefore not in the image,
# does this when it ends, which is after all others: it was started before them, as systemd sees it.
remove_again_at_shutdown() {
    local -r program=/run/bake-seal.sh unit=bake-seal.service
    {
        echo 'shopt -s nullglob dotglob'
        declare -f kill_agent_workers list_traces list_filled remove_and_empty
        echo kill_agent_workers
        echo remove_and_empty
    } >"$program"
    {
        printf '%s\n' '[Unit]' 'Description=Remove what services have written since the seal' DefaultDependencies=no \
            Conflicts=shutdown.target Before=shutdown.target Before=sysinit.target
        systemctl list-units --type service --state active --plain --no-legend |
            awk -v own="$unit" '$1 != own { print "Before=" $1 }'
        printf '%s\n' '[Service]' Type=oneshot RemainAfterExit=yes ExecStart=/bin/true "ExecStop=/bin/bash $program"
    } >"/run/systemd/system/$unit"
    systemctl daemon-reload
    systemctl start "$unit"
}

# forget_snap_device: remove the serial number from snapd's state, as snapd's own "forget" does
# (DeviceManager.Unregister). A machine without one registers with the store at its next boot.
forget_snap_device() {
    local -r state=/var/lib/snapd/state.json
    [[ ! -f $state ]] || python3 - "$state" <<'END'
import json, os, sys
path = sys.argv[1]
with open(path) as file:
    state = json.load(file)
device = state.get("data", {}).get("auth", {}).get("device") or {}
if any([device.pop(name, None) for name in ("serial", "key-id", "session-macaroon")]):
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(state, file)
    os.replace(path + ".new", path)
END
}

# A session of Session Manager may be the one of this bake: its agent is left alone until the shutdown. The
# kernel cuts a process's name, ssm-session-worker, to 15 characters.
agent_in_use=$(pgrep --exact ssm-session-wor || true)

# The boot may still be in progress: a machine from a checkpoint may have no other stage to run before this one.
[[ ! -e /run/cloud-init/status.json ]] || timeout 300 cloud-init status --wait >/dev/null || true
[[ ! -d /run/systemd/system ]] || stop_services

clean_package_cache
! command -v cloud-init >/dev/null || cloud-init clean --logs
forget_snap_device
# open-iscsi makes a new name when it finds this word. Source: its startup-checks.sh.
iscsi=/etc/iscsi/initiatorname.iscsi
! grep --quiet ^InitiatorName= "$iscsi" 2>/dev/null || echo GenerateName=yes >"$iscsi"

removed=0 emptied=0
for pause in 0 1 2; do # some processes (init, for logins) may write another line during the removal
    sleep "$pause"
    remove_and_empty
    removed=$((removed + ${#traces[@]})) emptied=$((emptied + ${#files[@]}))
    in_container || sync # in a container, sync would wait for all writes of the host
    mapfile -t left < <(list_traces && list_filled)
    ((${#left[@]} > 0)) || break
done
((${#left[@]} == 0)) || fail "not removed: ${left[*]}"
[[ ! -d /run/systemd/system ]] || remove_again_at_shutdown
say "sealed: $removed traces removed, $emptied files emptied"
