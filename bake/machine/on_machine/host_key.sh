#!/bin/sh
# Replace the SSH host key that this machine's user data contains by one that was made here.
# host_key.sh make KEY    print the key that this machine will have instead of KEY; make it if needed
# host_key.sh install     use that key from now on, also after a reboot
# Both may be repeated after an interruption at any point. Open connections stay.
set -eu

key=/etc/ssh/ssh_host_ed25519_key
new=/etc/ssh/bake_new_host_key

public() { # of a private key; its .pub file may be of another key after an interruption
    ssh-keygen -y -f "$1" | cut -d ' ' -f 1,2
}

make() {
    if [ ! -s "$new" ] && [ "$(public "$key")" = "$1" ]; then
        rm -f "$new.part" "$new.part.pub"
        ssh-keygen -q -t ed25519 -N '' -C "$(hostname)" -f "$new.part"
        rm -f "$new.part.pub"
        mv "$new.part" "$new"
    fi
    if [ -s "$new" ]; then public "$new"; else public "$key"; fi
}

install() {
    if [ -s "$new" ]; then
        public "$new" >"$new.pub"
        sync # a power failure must not leave an empty key
        mv "$new.pub" "$key.pub"
        mv "$new" "$key"
        sync
    fi
    service ssh reload >&2
}

exec 9>/run/bake-host-key.lock
flock 9 # two computers may do this at the same time
"$@" 9>&-
