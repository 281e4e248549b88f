"""The tool `python`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import ToolFailedError
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.program import TIMEOUT_S, run_program


@tool(destructive=True, open_world=True, timeout_s=TIMEOUT_S, labels=[PRIVATE_DATA])
async def python(
    ctx: ToolContext,
    script: Annotated[str, Field(min_length=1, description="The text of a Python program.")],
    cwd: Annotated[str, Field(description="The directory to start in.")] = ".",
    timeout_s: Annotated[
        float, Field(ge=0, description="Seconds until it is ended; 0: the limit set here.")
    ] = 0,
) -> str:
    """Run a Python program in a sandbox.

    Use it to compute, or to work through many files at once. It is the host's python3 with its
    standard library, in the same sandbox as exec: the files of this tree, a /tmp of its own, no
    network unless that is allowed here. Print what you want to know: returns stdout, then stderr
    after a line `[stderr]`, then `[exit code N]`.
    """
    said = await run_program(ctx, ["python3", "-u", "-"], cwd, script, timeout_s)
    if said.endswith("[exit code 127]") and "python3: not found" in said:
        raise ToolFailedError("there is no python3 in the host's /usr: apt-get install python3")
    return said
