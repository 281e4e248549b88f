"""The measured claims: `make bench`, or `python -m tests.bench [name…]`.

Each row is a ratio within one run: the rivals take turns inside every round and the median of
the rounds counts, so a noisy machine hits all of them alike. The loops that are timed run in one
process of their own (`client`), the same code for every rival. `rivals` starts the mounts,
`measures` holds one function for each row or group of rows, `plain_pyfuse3` is the program we
compare with. Nothing here passes or fails: it prints numbers.
"""
