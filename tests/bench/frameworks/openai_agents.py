"""The same work by openai-agents: N agents at once, two turns and a tool each, a model without I/O.

`python openai_agents.py N` prints the seconds. The bench runs it by a venv that has the package.
"""

import asyncio
import importlib
import os
import sys
import time
from typing import Any

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
agents: Any = importlib.import_module("agents")
responses: Any = importlib.import_module("openai.types.responses")


class FakeModel(agents.Model):  # type: ignore[misc]  # the package is in another venv
    """Wants the tool once, then answers."""

    def __init__(self) -> None:
        self._calls = 0

    async def get_response(self, *_: Any, **__: Any) -> Any:
        self._calls += 1
        if self._calls == 1:
            item = responses.ResponseFunctionToolCall(
                type="function_call", call_id=f"call_{id(self)}", name="list_dir",
                arguments='{"path": "/bin"}',
            )  # fmt: skip
        else:
            text = responses.ResponseOutputText(text="done", type="output_text", annotations=[])
            item = responses.ResponseOutputMessage(
                id="m", role="assistant", status="completed", type="message", content=[text]
            )
        return agents.ModelResponse(output=[item], usage=agents.Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@agents.function_tool  # type: ignore[untyped-decorator]  # the package is in another venv
def list_dir(path: str) -> str:
    """Names and sizes of a directory."""
    return "\n".join(os.listdir("/bin")[:5])


async def one() -> None:
    agent = agents.Agent(name="a", instructions="x", model=FakeModel(), tools=[list_dir])
    result = await agents.Runner.run(agent, "go")
    assert result.final_output == "done"


async def main(count: int) -> float:
    await one()
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began


if __name__ == "__main__":
    agents.set_tracing_disabled(True)
    print(asyncio.run(main(int(sys.argv[1]))))
