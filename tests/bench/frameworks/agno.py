"""The same work by agno: N agents at once, two turns and a tool each, a model without I/O.

`python agno.py N` prints the seconds. The bench runs it by a venv that has the package.
"""

import asyncio
import importlib
import os
import sys
import time
from typing import Any

sys.path = [path for path in sys.path if os.path.basename(path) != "frameworks"]  # not this file
os.environ["AGNO_TELEMETRY"] = "false"
Agent: Any = importlib.import_module("agno.agent").Agent
Model: Any = importlib.import_module("agno.models.base").Model
ModelResponse: Any = importlib.import_module("agno.models.response").ModelResponse


class FakeModel(Model):  # type: ignore[misc]  # the package is in another venv
    """Wants the tool once, then answers."""

    def __init__(self) -> None:
        super().__init__(id="fake")
        self.calls = 0

    async def ainvoke(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            function = {"name": "list_dir", "arguments": '{"path": "/bin"}'}
            call = {"id": f"call_{id(self)}", "type": "function", "function": function}
            return ModelResponse(role="assistant", tool_calls=[call])
        return ModelResponse(role="assistant", content="done")

    def invoke(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    invoke_stream = ainvoke_stream = _parse_provider_response = invoke
    _parse_provider_response_delta = invoke


def list_dir(path: str) -> str:
    """Names and sizes of a directory."""
    return "\n".join(os.listdir("/bin")[:5])


async def one() -> None:
    agent = Agent(model=FakeModel(), instructions="x", tools=[list_dir], telemetry=False)
    result = await agent.arun("go")
    assert result.content == "done", result.content


async def main(count: int) -> float:
    await one()
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began


if __name__ == "__main__":
    print(asyncio.run(main(int(sys.argv[1]))))
