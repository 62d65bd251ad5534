#!/bin/sh
# boot_id: print what differs at each boot of this machine. Programs that compare boots begin with this text.
# A container may have its host's boot id (Docker without root); its process 1 is started at each of its boots.
boot_id() {
    printf '%s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(sed 's/.*) //' /proc/1/stat | cut --delimiter=' ' --fields=20)"
}
