#!/bin/sh
# Makes .venv ready: the system packages that are missing, then exactly what requirements.lock says.
#
#   scripts/setup.sh         what the mount needs
#   scripts/setup.sh test    and the programs that the tests run on the mount
#
# Nothing is downloaded without a hash, build requirements included. A second run checks a stamp and is quick.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
venv=$here/.venv

say() { echo "nexusfs set-up: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# need "PACKAGE…" CHECK…: notes the packages when the check fails.
packages=
need() {
    wanted=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $wanted"
}

# Installs what was noted, or says what to install.
install_packages() {
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null || die "no apt-get here; install what Debian calls:$packages"
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        die "please run: sudo apt-get install$packages"
    fi
    say "installing$packages"
    log=$(mktemp)
    # Unquoted on purpose: both are lists of words.
    # shellcheck disable=SC2086
    if ! { $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $packages; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get failed (all of it is in $log); please run: apt-get install$packages"
    fi
    rm -f "$log"
    packages=
}

# Prints the first Python that is new enough; $PYTHON goes first.
find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

has_headers='import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))'

# Notes what the Python that would be used lacks.
need_python() {
    if python=$(find_python); then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        need "python$version-venv" "$python" -c 'import ensurepip, venv'
        need "python$version-dev" "$python" -c "$has_headers"
    elif command -v python3 >/dev/null; then # an old one: Ubuntu 22.04 has 3.11 beside it
        packages="$packages python3.11 python3.11-venv python3.11-dev"
    else
        packages="$packages python3 python3-venv python3-dev"
    fi
}

make_venv() {
    python=$(find_python) || die "needs Python 3.11 or newer; set PYTHON=/path/to/python3"
    # A .venv that was copied or moved here has scripts that name the old place.
    if ! grep -qsF "$venv/bin/" "$venv/bin/pip" || ! "$venv/bin/python" -c '' 2>/dev/null; then
        say "making .venv with $($python --version)"
        "$python" -m venv --clear "$venv"
    fi
}

# Installs exactly the lock. uv comes first, from its own lines of the lock; --build-constraints
# holds what pyfuse3 is built with to the same hashes.
fill_venv() {
    say "installing requirements.lock"
    mine=$(mktemp)
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$mine"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$mine"
    rm -f "$mine"
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-120}"
    uv="$venv/bin/uv -q pip"
    for_us="--python $venv/bin/python"
    # shellcheck disable=SC2086
    $uv sync $for_us --require-hashes --build-constraints requirements.lock requirements.lock
    # shellcheck disable=SC2086
    $uv install $for_us --no-deps --no-build-isolation --offline -e .
}

stamp=$venv/.ready-$({ echo "$here"; cat requirements.lock pyproject.toml scripts/setup.sh; } | sha256sum | cut -c 1-16)

need fuse3 command -v fusermount3
need bubblewrap command -v bwrap
if [ "${1:-}" = test ]; then
    need busybox command -v busybox
    need git command -v git
    need less command -v less
    need rsync command -v rsync
fi
if [ ! -e "$stamp" ]; then
    need pkg-config command -v pkg-config
    need libfuse3-dev pkg-config --exists fuse3
    need "gcc libc6-dev" command -v gcc
    need_python
fi
install_packages

if [ ! -e "$stamp" ]; then
    make_venv
    fill_venv
    rm -f "$venv"/.ready-*
    : >"$stamp"
    say "ready: .venv/bin/nexusfs"
fi
