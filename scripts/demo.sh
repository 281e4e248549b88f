#!/bin/sh
# The tour of `make demo`: prints each shell line, then runs it, and stops with an error at the first
# that fails. Everything is in a temporary directory, which goes at the end.
# Lines are given in single quotes, to be expanded when they run:
# shellcheck disable=SC2016
set -eu
cd "$(dirname "$0")/.."
repo=$(pwd -P)
PATH=$repo/.venv/bin:$PATH
work=$(mktemp -d)
store=$work/store
mnt=$work/mnt
mkdir "$mnt"

finish() {
    status=$?
    trap - EXIT
    cd /
    if grep -q " $mnt " /proc/self/mounts; then nexusfs umount "$mnt" || status=1; fi
    rm -rf "$work"
    [ $status = 0 ] || echo "demo: failed" >&2
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n# %s\n' "$*"; }
run() {
    printf '$ %s\n' "$1"
    eval "$1"
}
# refused LINE: the line must fail.
refused() {
    printf '$ %s\n' "$1"
    if (eval "$1"); then
        echo "demo: that should have failed" >&2
        exit 1
    fi
}

say "A store, mounted; the command returns when the mount answers."
run "nexusfs mount $mnt --store $store"
run "cd $mnt"
run "mkdir docs"
run "cp $repo/README.md $repo/LICENSE $repo/pyproject.toml docs/"
run "ls"

say "An agent is started by echo. offline/demo is no language model: it follows rules."
run "echo '{\"model\": \"offline/demo\", \"task\": \"list /docs, then find Apache in /docs/LICENSE\"}' > proc/spawn"
run 'pid=$(readlink proc/.last)'

say "Its events, as they come; the stream ends with the agent."
run 'cut -c 1-150 proc/$pid/events_pipe'
run 'cat proc/$pid/wait'
run 'cat proc/$pid/status'
run 'cat proc/$pid/result'
run '[ "$(cat proc/$pid/exit_code)" = 0 ]'

say "A tool is called by echo too; its reply is read from .last, or from the same handle."
run "echo '{\"pattern\": \"pyfuse3\", \"path\": \"/docs/pyproject.toml\"}' > dispatch/grep"
run "cat dispatch/.last"
run "grep -q '\"success\": true' dispatch/.last"

say "A mistake fails the write itself, and the log says what to write instead."
refused "echo '{\"modle\": \"offline/demo\"}' > proc/spawn"
run "tail -n 1 sys/error_log"

say "Unmounted and mounted again, everything is still there."
run "cd /"
run "nexusfs umount $mnt"
run "nexusfs mount $mnt --store $store"
run "cd $mnt"
run "cmp docs/LICENSE $repo/LICENSE"
run 'head -n 3 proc/$pid/status'
run 'cat proc/$pid/result'

say "The same by command."
run "nexusfs run 'list /docs'"
run "nexusfs ps"
run "nexusfs call grep pattern=Apache path=/docs/LICENSE"

say "Done. Try: .venv/bin/nexusfs mount MNT"
