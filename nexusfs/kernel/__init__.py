"""Mechanism: syscalls, the VFS, processes, tools and rights; no policy, no I/O of its own.

All of it runs in one trio thread, so a method that does not await is atomic.
"""
