"""The FUSE door: converts Linux's requests to system calls and back, and defines nothing.

`operations` has one method for each request, `inodes` remembers which nodes Linux knows,
`caller` finds out who asks, `blocked` frees readers that got a signal, `loop` makes the request
loop quick, `session` mounts and unmounts, `daemon` is the process, `cli` the commands.
"""
