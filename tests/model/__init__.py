"""The state machine of ordinary files: the same random calls in several places, compared.

`ops` says which calls there are, and draws them. `host` makes them in a directory, which may be the
host's or one of a mount: by processes of the users who call. `kernel` makes them in process.
`machine` compares results, errnos and the trees, and what a crash leaves. Used by tests/prop (in
process), tests/fuse (a short slice on a mount) and tests/torture (long, on both).
"""
