#!/bin/sh
# Ends this machine when its time is up: warns whoever is logged in, and powers it off. What becomes
# of it then (stopped, terminated) is EC2's to know. Made for it when it was launched.
#
#   bake-lifetime                    by cloud-init, at every boot
#   bake-lifetime watch              the timer
#   bake-lifetime extend SECONDS     or "never"; says how many seconds it has then
#
# What it counts is /proc/uptime: a clock that is set tells it nothing. From one boot to the next it
# keeps the end in EC2's time, in a file that never grows, so that a full disk is no matter.
owner='' # the run that launched it
name=''  # as `invoke extend` knows it
ttl=''   # in words
ttl_s=   # nothing: never
idle_s=  # nothing: idle as long as it likes

self=/var/lib/cloud/scripts/per-boot/bake-lifetime
facts=/usr/local/lib/bake/lifetime_facts.py
kept=/var/lib/bake-lifetime # "OWNER END": seconds since 1970, or "never", where it was extended
state=/run/bake-lifetime    # of this boot: ends (by the uptime, or "never"), offset
unit=/etc/systemd/system/bake-lifetime.service
# Less is not worth a start: a machine that boots has this, whatever its end was.
shortest_s=600
unused='nobody uses it'
look_s=30
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

uptime_s() {
    read -r up _ </proc/uptime
    echo "${up%.*}"
}

# An image that was taken with this in it has other user data, and an end of its own or none.
is_ours() { grep -qsF "owner=$owner" /var/lib/cloud/instance/user-data.txt; }

is_number() { case $1 in '' | *[!0-9]*) false ;; esac }

least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

# When it was launched or started, and what time it is, both by EC2. Without its word, a boot is one.
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
    until [ -s $state/ends ]; do sleep 1; done # it still boots
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
    # In place: what has to be allocated for it is there already.
    printf '%s %-20s\n' "$owner" "$end" 1<>$kept ||
        echo 'The new end is not kept over a reboot' >&2
    [ "$ends" = never ] && echo never || echo $((ends - up))
}

tell() {
    echo "$1" >/dev/console
    timeout 20 wall "$1"
} 2>/dev/null

# Once at each of these times before the end, and again after it was moved.
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
    # Another that watches already goes first; this one takes over when that is gone.
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
            # What cannot be told, as when the driver hangs, is no reason to end it.
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

# A service of its own: it does not depend on what cloud-init makes of its own end, and starts
# without it where cloud-init does not get as far (on a full disk it does not).
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
    echo 'The timer on this machine is of another one' >&2
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
