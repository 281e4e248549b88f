"""A question to a person: may this call run?"""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Question:
    """A call that waits for a person, or for which one has decided.

    Attributes:
        number: its name in `approvals`; no other question of its agent has it.
        call_id, tool, arguments: the call; the arguments may be changed by the answer.
        why: the rule that asks.
        asked_at: RFC 3339 UTC.
        verdict: empty while it waits; then `approve`, `deny`, `modify` or `withdrawn`.
        reason: what the person said, where he denied it.
    """

    number: int
    call_id: str
    tool: str
    arguments: dict[str, Any]
    why: str
    asked_at: str
    verdict: str = ""
    reason: str = ""

    def to_json(self, pid: int, agent: str) -> dict[str, Any]:
        """What the file of the question shows."""
        return {
            "question": self.number,
            "pid": pid,
            "agent": agent,
            "tool": self.tool,
            "arguments": self.arguments,
            "why": self.why,
            "asked_at": self.asked_at,
            "answers": ["approve", "deny [reason]", "modify {arguments}"],
        }
