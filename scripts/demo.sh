#!/bin/sh
# The main job, shown: mount, spawn an agent with echo, run a tool with echo, remount, see it all.
# Each line is printed before it runs; the first one that fails ends the demo with its status.
set -eu

cd "$(dirname "$0")/.."
here=$(pwd)
PATH="$here/.venv/bin:$PATH"
work=$(mktemp -d)
NEXUSFS_MNT="$work/nexus"
XDG_CONFIG_HOME="$work/config" # the demo shows a fresh installation, not your configuration
export PATH NEXUSFS_MNT XDG_CONFIG_HOME here work

finish() {
    status=$?
    cd /
    nexusfs umount -l "$work/nexus" >/dev/null 2>&1 || true
    rm -rf "$work"
    if [ "$status" -eq 0 ]; then
        echo "demo: all of it worked"
    else
        echo "demo: the line above failed with status $status" >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Prints a line, runs it in this shell, and stops the demo when it fails.
run() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

# Prints a line, runs it, and stops unless its output has the text.
expect() {
    text=$1
    printf '\n$ %s\n' "$2"
    output=$(eval "$2")
    printf '%s\n' "$output"
    case $output in
    *"$text"*) ;;
    *)
        echo "demo: expected to read '$text' there" >&2
        exit 1
        ;;
    esac
}

run 'mkdir "$work/nexus"'
run 'nexusfs mount "$work/nexus" --store "$work/store"'
run 'cd "$work/nexus"'
run 'ls'
run 'mkdir texts && cp "$here"/README.md "$here"/LICENSE texts/'

echo
echo "# An agent: write a spec, read its pid, follow it. No key is configured, so the"
echo "# built-in stand-in answers; a spec with \"model\": \"anthropic/...\" would use a real one."
run "exec 3<>proc/spawn"
run "echo '{\"name\": \"demo\", \"model\": \"offline/demo\", \"task\": \"find Contribution in /texts\"}' >&3"
run 'read -r pid <&3; exec 3>&-; echo "pid $pid"'
run 'cat proc/$pid/events_pipe'
expect "$pid 0 done" 'cat proc/$pid/wait'
expect 'stopped' 'cat proc/$pid/status'
expect 'LICENSE' 'cat proc/$pid/result'

echo
echo "# A tool, called by you: write its arguments, read its reply."
run "echo '{\"pattern\": \"NexusFS is\", \"path\": \"/texts\"}' > dispatch/grep"
expect '"success": true' 'cat dispatch/.last'

echo
echo "# A mistake: the write fails, and a file says what to write instead."
run "! echo '{\"modle\": \"offline/demo\"}' > proc/spawn"
expect "did you mean 'model'" 'tail -n 1 sys/error_log'

echo
echo "# Unmount, mount again: files, agents and their transcripts are still there."
run 'cd /'
run 'nexusfs umount "$work/nexus"'
run 'nexusfs mount "$work/nexus" --store "$work/store"'
run 'cd "$work/nexus"'
run 'cmp texts/LICENSE "$here/LICENSE"'
expect "$pid 0 done" 'cat proc/$pid/wait'
expect 'LICENSE' 'cat proc/$pid/result'
expect 'tool_calls' 'head -n 2 proc/$pid/messages.jsonl'
run 'nexusfs ps'
run 'cd /'
run 'nexusfs umount "$work/nexus"'
