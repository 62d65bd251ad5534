#!/usr/bin/env bash
# Looks up what is pinned among the known vulnerabilities.
# Usage: audit.sh PYTHON. Ends with 0: none; 1: there are some; 2: PYTHON has no pip-audit; 75: they cannot
# be looked up from here.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/../.."

"$1" -c 'import pip_audit' || exit 2
status=0
# With hashes nothing has to be resolved, so nothing is installed or built for it. Strictly: an index that
# does not know of vulnerabilities answers as if there were no such package, and that proves nothing.
said=$("$1" -m pip_audit --strict --progress-spinner off --disable-pip --require-hashes --requirement requirements/test.txt 2>&1) || status=$?
printf '%s\n' "$said"
if ((status == 0)) || grep --quiet --extended-regexp '^Found [0-9]+ known vulnerabilit' <<<"$said"; then
    exit "$status"
fi
echo "Skipped: the known vulnerabilities cannot be looked up from here." >&2
exit 75
