#!/usr/bin/env bash
# The message of the day greets everyone who logs in.
# Inputs: GREETING=Hello
set -o errexit -o nounset -o pipefail

# The last line that a check prints is its result. It ends with 0 (passed), 77 (skipped), or fails.
read -r first </etc/motd
echo "/etc/motd begins with: $first"
[[ $first == "$GREETING" ]]
