"""How often Python's garbage collector looks, in a process that holds a whole tree in memory."""

import gc


def calm_the_collector() -> None:
    """Makes the garbage collector look less often, and never at what boot has made.

    The tree in memory is hundreds of thousands of objects that live; looking through them took a
    quarter of the time of making small files. Few things here are in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
