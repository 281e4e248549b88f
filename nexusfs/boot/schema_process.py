"""The process that checks schemas: JSON Lines on its standard streams, one reply a line.

    {"schema": {…}}                   →  {"value": null}, or {"fault": "…"}: is it a schema?
    {"schema": {…}, "answer": "…"}    →  {"value": "{…}"}, or {"fault": "…"}: does the answer fit?

Linux ends it by SIGPROF, whose default that is, when one line takes CHECK_CPU_S of processor time.
"""

import json
import resource
import signal
import sys
from typing import Any

from nexusfs.contracts.errors import InvalidError
from nexusfs.kernel.arguments import check_schema, validate_value
from nexusfs.services.agent.output import answer_value
from nexusfs.services.schemas import CHECK_CPU_S

COMMAND = (sys.executable, "-P", "-m", "nexusfs.boot.schema_process")
MEMORY_BYTES = 1 << 30


def reply_to(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request."""
    try:
        if "answer" not in request:
            check_schema(request["schema"])
            return {"value": None}
        value = answer_value(request["answer"])
        validate_value(request["schema"], value)
        return {"value": json.dumps(value, ensure_ascii=False)}
    except InvalidError as exc:
        return {"fault": str(exc)}
    except Exception as exc:  # whatever a library raises over a schema that nobody foresaw
        return {"fault": f"it cannot be checked: {type(exc).__name__}"}


def main() -> None:
    """Answers until its standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    check_schema({})  # imports what is heavy, outside of the time of a check
    validate_value({}, None)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CHECK_CPU_S)
        reply = reply_to(json.loads(line))
        data = json.dumps(reply).encode() + b"\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
