#!/bin/sh
# Writes requirements.lock from pyproject.toml: exact versions with hashes, for every platform, no addresses.
# usage: [BIN=.venv/bin] scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
new=$(mktemp)
trap 'rm -f "$new"' EXIT
[ ! -e requirements.lock ] || cp requirements.lock "$new"
"${BIN:-.venv/bin}/uv" -q pip compile "$@" --universal --generate-hashes --all-extras --no-header \
    --no-emit-index-url --no-emit-find-links --python-version 3.11 -o "$new" pyproject.toml
if grep -nE '://|--(index|extra|find|trusted)' "$new"; then
    echo "nexusfs lock: the lines above name an address" >&2
    exit 1
fi
{
    echo "# Exact versions with hashes, from pyproject.toml; written by: make lock"
    grep -v '^# Exact versions' "$new"
} >requirements.lock
