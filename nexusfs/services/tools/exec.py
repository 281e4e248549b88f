"""The tool `exec`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import ToolFailedError
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.program import TIMEOUT_S, run_program


@tool(name="exec", destructive=True, open_world=True, timeout_s=TIMEOUT_S, labels=[PRIVATE_DATA])
async def exec_(
    ctx: ToolContext,
    command: Annotated[
        str | list[str],
        Field(description="A command line for sh, or a program and its arguments as a list."),
    ],
    cwd: Annotated[str, Field(description="The directory to start in.")] = ".",
    stdin: Annotated[str, Field(description="What the program can read.")] = "",
    timeout_s: Annotated[
        float, Field(ge=0, description="Seconds until it is ended; 0: the limit set here.")
    ] = 0,
) -> str:
    """Run a program in a sandbox.

    Use it for what no other tool does: builds, tests, git, pipes of commands. The program has
    the files of this tree at their paths (those of /bin, /etc, /tmp, /var and the control trees
    under /nexus), the host's /usr to read, a /tmp of its own, and no network unless that is
    allowed here. Nothing that it starts outlives the call. Returns stdout, then stderr after a
    line `[stderr]`, then `[exit code N]`; a long output is cut in the middle, and the reply says
    which file has all of it. An exit code other than 0 is no failure of the tool.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    if not command or not argv[-1].strip():
        raise ToolFailedError('`command` is empty: give a command line, such as "ls -l"')
    return await run_program(ctx, argv, cwd, stdin, timeout_s)
