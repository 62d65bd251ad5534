#!/usr/bin/env bash
# A message of the day: a greeting, and below it a text of this project.
# Needs:  base
# Inputs: GREETING=Hello
# Files:  motd.txt
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

write_file /etc/motd <<<"$GREETING
$(<"$BAKE_FILES/motd.txt")"

# A stage ends with a check of its own, and fails if its work is not done.
[[ $(head --lines=1 /etc/motd) == "$GREETING" ]] || fail "/etc/motd does not begin with: $GREETING"
say "/etc/motd begins with: $GREETING"
