"""The state machine of ordinary files: the same random calls in several places, compared.

`ops` says which calls there are, and draws them. `host` makes them in a directory, the host's or
one of a mount, by processes of the users who call. `kernel` makes them without a mount, in a
process that can be stopped at any moment. `machine` compares results, errnos and the trees, and
what a crash leaves; `in_process` and `mounted` say where. Used by tests/prop (without a mount),
tests/fuse (a short slice on a mount) and tests/torture (long, on both).
"""
