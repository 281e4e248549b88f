"""The client commands. One module per group of commands, imported when one of them is used.

A command converts words into a request to a file of the mount, and a reply into lines: it knows the
mount through `nexusfs.adapters.client` alone. An error is raised as ClientError and shown by
`nexusfs.__main__` as one line on stderr.

- options: --mnt, and what Tab completes from the mount
- spec: words and options into the spec of an agent
- agents: spawn, run, wait, kill
- processes: ps, tree
- logs, call, completion: a command each
- stream: follows blocking files
- live: what `run` shows of an agent's events
"""
