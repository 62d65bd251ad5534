#!/usr/bin/env bash
# Check the pinned dependencies for known vulnerabilities.
# Usage: audit.sh PYTHON. Exit status 0: none; 1: some; 2: PYTHON has no pip-audit; 75: the data about
# vulnerabilities cannot be reached from this computer.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/../.."

"$1" -c 'import pip_audit' || exit 2
status=0
# With hashes nothing has to be resolved, so nothing is installed or built. --strict, because an index without
# data about vulnerabilities answers as if the package did not exist, and that proves nothing.
said=$("$1" -m pip_audit --strict --progress-spinner off --disable-pip --require-hashes --requirement requirements/test.txt 2>&1) || status=$?
printf '%s\n' "$said"
if ((status == 0)) || grep --quiet --extended-regexp '^Found [0-9]+ known vulnerabilit' <<<"$said"; then
    exit "$status"
fi
echo "Skipped: the data about known vulnerabilities cannot be reached from this computer." >&2
exit 75
