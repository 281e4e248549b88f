"""Programs that tools run: held by a sandbox, and known for whose they are.

A call goes through these modules in this order:

- `service`: `Sandboxes`, one for a kernel. It finds out at boot what can hold a program here
  (bubblewrap, else Landlock, else nothing), and runs commands for an asker.
- `plan`: which paths of the mount are bound, where, and what a path is called inside.
- `bwrap`, `supervised`: start the tree of processes. bubblewrap gives it a root, a PID and a
  network namespace of its own; without it, `landlock` (a program by itself) restricts the tree
  by Landlock and seccomp and watches over it.
- `tree`: a started tree: its streams, its end, and how it is ended whatever it does.
- `watch`: counts the processes and the memory of a tree, for limits that no rlimit is.
- `output`: what a stream said: its head and tail, and a file in the store with all of it.
- `callers`: which agent a process of the host belongs to, for the requests it makes of the mount.
- `seccomp`: the system calls that no program here has any business with.

The tree of processes ends with the call that started it, with the agent, and with the daemon,
also when that is killed: bubblewrap's first process dies with the thread that started it
(prctl(2), PR_SET_PDEATHSIG) and its PID namespace with it; Landlock's supervisor ends its tree
when a pipe that only the daemon holds is closed.
"""
