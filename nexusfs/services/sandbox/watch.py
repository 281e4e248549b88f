"""How many processes a tree has and how much memory: limits that Linux keeps for no tree.

Source: proc_pid_status(5), proc_tid_children(5).
"""

KIB = 1024


def sample(root: int, most: int) -> tuple[int, int]:
    """(processes, bytes of memory of their own) below the host pid `root`. Blocks.

    Memory that several share is counted for each. Counting ends after `most` + 1 processes.
    """
    count = size = 0
    ahead = [root]
    while ahead and count <= most:
        children = _children(ahead.pop())
        ahead += children
        count += len(children)
        size += sum(_own_bytes(child) for child in children)
    return count, size


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _own_bytes(pid: int) -> int:
    """Anonymous and shared memory; what is read from files is not the program's."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * KIB for line in lines if line.startswith((b"RssAnon:", b"RssShmem:"))
    )
