"""Readers that wait: `python readers.py COUNT PATH…` reads the paths in turn, a thread each.

Prints a line when all have begun, and ends when the last one got its answer.
"""

import sys
import threading
from pathlib import Path

STACK_BYTES = 256 * 1024


def main() -> None:
    count, paths = int(sys.argv[1]), sys.argv[2:]
    threading.stack_size(STACK_BYTES)
    threads = [
        threading.Thread(target=Path(paths[index % len(paths)]).read_bytes)
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
