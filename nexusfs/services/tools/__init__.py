"""The tools that every NexusFS has, one module each.

A tool is a typed async function under `@tool(...)`: its docstring is the manual that people
and models read, its signature the schema that arguments are checked against. It works over
`ctx.files`, anything that can read, write, list and look (the bound syscalls, with the
caller's credentials), and over `ctx.search` and `ctx.programs` where there are such; it has no
other way to the world. These built-ins use the same public door as any other tool.

- `read_file`, `write_file`, `edit_file`, `list_dir`, `glob`, `grep`: the tools.
- `search`: the Search seam over plain files, by walking.
- `exec`, `python`: programs, run by `ctx.programs` (services/sandbox); `program` is their reply.
- `spawn`, `wait`, `send`, `kill`, `delegate`, `collect`, `cancel`, `review`: other agents, over
  `ctx.agents`, which are the system calls; `ask`, `artifact`: a worker's side; `agents` is shared.
- `missing`: errors for paths that are not there, naming what is near.

Everything that can be long is cut at a limit of the configuration, and the reply then says in
its last line, in square brackets, what was cut and how to get the rest. A failure is a
KernelError whose one sentence says what to write instead; it is text for the model.
"""

from nexusfs.contracts.tool import Tool, with_quick_look
from nexusfs.services.tools.artifact import artifact
from nexusfs.services.tools.ask import ask
from nexusfs.services.tools.cancel import cancel
from nexusfs.services.tools.collect import collect
from nexusfs.services.tools.delegate import delegate
from nexusfs.services.tools.edit_file import edit_file
from nexusfs.services.tools.exec import exec_
from nexusfs.services.tools.glob import glob
from nexusfs.services.tools.grep import grep
from nexusfs.services.tools.kill import kill
from nexusfs.services.tools.list_dir import list_dir
from nexusfs.services.tools.python import python
from nexusfs.services.tools.read_file import read_file
from nexusfs.services.tools.review import review
from nexusfs.services.tools.search import WalkSearch
from nexusfs.services.tools.send import send
from nexusfs.services.tools.spawn import spawn
from nexusfs.services.tools.wait import wait
from nexusfs.services.tools.write_file import write_file

__all__ = ["BUILTIN", "WalkSearch"]

BUILTIN: tuple[Tool, ...] = tuple(map(with_quick_look, (
    read_file, write_file, edit_file, list_dir, glob, grep, exec_, python, spawn, wait, send, kill,
    delegate, collect, cancel, review, ask, artifact,
)))  # fmt: skip
