#!/bin/sh
# Powers this machine off at the end of its lifetime, after warnings to all logged-in users. EC2 then
# stops or terminates it. The variables below are set when the machine is launched.
#
#   bake-lifetime                    run by cloud-init at every boot
#   bake-lifetime watch              the timer
#   bake-lifetime extend SECONDS     or "never"; prints the seconds that are left
#
# The timer uses /proc/uptime, which does not change when the clock is set. For the time after a reboot,
# the end is stored in EC2's time. The file has a constant size, so that this works on a full disk, too.
owner='' # the run that launched the machine
name=''  # its name for `invoke extend`
ttl=''   # the TTL as text, for messages
ttl_s=   # the TTL in seconds; empty for no limit
idle_s=  # the idle time in seconds after which the machine ends; empty for no limit

self=/var/lib/cloud/scripts/per-boot/bake-lifetime
facts=/usr/local/lib/bake/lifetime_facts.py
kept=/var/lib/bake-lifetime # "OWNER END", if the end was moved; END in seconds since 1970, or "never"
state=/run/bake-lifetime    # for this boot: ends (an uptime, or "never"), and offset (uptime to EC2's time)
unit=/etc/systemd/system/bake-lifetime.service
# A machine that has booted runs at least this long, even if its end has passed.
shortest_s=600
unused='it is not in use'
look_s=30
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

uptime_s() {
    read -r up _ </proc/uptime
    echo "${up%.*}"
}

# A machine started from an image that contains this file has other user data and its own lifetime.
is_ours() { grep -qsF "owner=$owner" /var/lib/cloud/instance/user-data.txt; }

is_number() { case $1 in '' | *[!0-9]*) false ;; esac }

least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

# The time of the launch or last start, and the present time, both from EC2; else the time of the boot.
launched() {
    timeout --kill-after=5 60 python3 $facts launched 2>/dev/null ||
        echo "$(date +%s) $(date +%s)"
}

begin() {
    mkdir -p $state
    # shellcheck disable=SC2046 # two words
    set -- $(launched)
    up=$(uptime_s)
    echo $(($2 - up)) >$state/offset
    whose='' end=''
    [ ! -e $kept ] || read -r whose end <$kept
    if [ "$whose" != "$owner" ]; then
        end=0
        printf '%s %-20s\n' "$owner" $end >$kept
    fi
    if [ -z "$ttl_s" ] || [ "$end" = never ]; then
        set_end never
        return
    fi
    is_number "$end" && [ "$end" -gt $(($1 + ttl_s)) ] || end=$(($1 + ttl_s))
    left=$((end - $2))
    [ $left -ge "$(least "$ttl_s" $shortest_s)" ] || left=$(least "$ttl_s" $shortest_s)
    set_end $((up + left))
}

set_end() { echo "$1" >$state/ends.new && mv $state/ends.new $state/ends; }

extend() {
    until [ -s $state/ends ]; do sleep 1; done # the machine still boots
    read -r ends <$state/ends
    up=$(uptime_s)
    if [ "$1" = never ] || [ "$ends" = never ]; then
        ends=never end=never
    else
        read -r offset <$state/offset
        ends=$((ends + $1))
        end=$((ends + offset))
    fi
    set_end "$ends"
    # Written in place, so that no disk space has to be allocated.
    printf '%s %-20s\n' "$owner" "$end" 1<>$kept ||
        echo 'The new end is not kept over a reboot' >&2
    [ "$ends" = never ] && echo never || echo $((ends - up))
}

tell() {
    echo "$1" >/dev/console
    timeout 20 wall "$1"
} 2>/dev/null

# Warn once at each of these times (in seconds) before the end, and again after the end was moved.
warn() {
    for before in 60 300 900; do
        [ "$1" -gt $before ] || break
    done
    [ -z "$warned" ] || [ "$1" -le "$warned" ] || warned=
    if [ "$1" -le "$before" ] && [ "${warned:-901}" -gt "$before" ]; then
        warned=$before
        time="$((($1 + 59) / 60)) min"
        [ "$1" -ge 60 ] || time="$1 s"
        tell "$name is switched off in $time, as $2.
To keep it: invoke extend $name 2h"
    fi
}

watch() {
    # Only one timer runs. Another one waits for the lock, and takes over when the first one ends.
    mkdir -p $state
    exec 9>$state/lock
    flock 9
    [ -s $state/ends ] || begin
    active=$(uptime_s) warned=
    while true; do
        up=$(uptime_s) left=$look_s why=
        read -r ends <$state/ends
        if [ "$ends" != never ]; then
            left=$((ends - up)) why="its TTL of $ttl ends"
        fi
        if [ -n "$idle_s" ]; then
            # A machine whose state is unknown (the driver hangs, for example) counts as in use.
            timeout --kill-after=5 120 python3 $facts in-use $state/kernels >$state/used 9>&-
            [ $? -eq 3 ] || active=$up
            if [ -z "$why" ] || [ $((active + idle_s - up)) -lt $left ]; then
                left=$((active + idle_s - up)) why=$unused
            fi
        fi
        if [ -n "$why" ]; then
            if [ $left -le 0 ]; then
                tell "$name is switched off now, as $why."
                shutdown -h now
            elif [ "$why" != "$unused" ] || [ $left -lt $((idle_s / 2)) ]; then
                warn $left "$why"
            fi
        fi
        pause=$(least $look_s $((${idle_s:-9999} / 4 + 1)))
        [ $left -le 0 ] || pause=$(least "$pause" $left)
        sleep "$pause" 9>&-
    done
}

# A service, so that the timer does not depend on the end of cloud-init, and starts also when
# cloud-init fails (as it does on a full disk).
install_unit() {
    cat >$unit.new <<UNIT && mv $unit.new $unit
[Unit]
Description=The end of this machine's lifetime
After=cloud-config.service

[Service]
ExecStart=$self watch
Restart=on-failure
RestartSec=10
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
UNIT
}

if ! is_ours; then
    echo 'The timer on this machine belongs to another machine' >&2
    [ "${1:-}" != extend ]
    exit
fi
case ${1:-} in
    '')
        if [ -d /run/systemd/system ]; then
            install_unit
            systemctl enable bake-lifetime.service
            systemctl start --no-block bake-lifetime.service && exit
        fi
        rm -f $state/ends
        setsid "$self" watch </dev/null >/dev/null 2>&1 &
        ;;
    watch) watch ;;
    extend) extend "$2" ;;
esac
