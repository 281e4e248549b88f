"""Checkpoints: what is kept of an agent so that another process can go on from there.

A checkpoint is canonical JSON, so the same state gives the same bytes and the same name: its
SHA-256. It names its version, and there is a reader for every version that ever was.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nexusfs.contracts.agent import Name
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import CorruptError, UnavailableError
from nexusfs.contracts.model import Message
from nexusfs.contracts.nesting import MAX_DEPTH, is_too_deep

FORMAT = "nexusfs-checkpoint"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an agent.

    Attributes:
        agent_id, pid, zone: whose it was.
        spec: the effective spec, as it can be spawned again.
        turns, rounds: counts; see `contracts.proc.ProgramProcess`.
        kept_from, summary: where its prompt begins, and what stands for the rest.
        transcript: the messages, oldest first.
        mail: messages that were not delivered yet.
    """

    agent_id: str
    pid: int
    zone: str
    spec: dict[str, Any]
    turns: int
    rounds: int
    kept_from: int
    summary: str
    transcript: list[Message]
    mail: list[str]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What the index says of a checkpoint; the time is RFC 3339 UTC.

    The zone is empty in what earlier versions wrote; no agent sees such a one.
    """

    checkpoint_hash: str
    agent_id: str
    pid: int
    turn_count: int
    created_at: str
    size_bytes: int
    automatic: bool = False
    zone: str = ""


class Checkpoints(Protocol):
    """Keeps checkpoints as files of an agent's home. Every method may suspend."""

    async def save(
        self, cred: Credentials, snapshot: Snapshot, *, automatic: bool = False
    ) -> CheckpointInfo:
        """Writes a checkpoint and adds it to the index; the same state is written once."""
        ...

    async def load(self, cred: Credentials, checkpoint_hash: str, agent_id: str | None) -> Snapshot:
        """Reads one with the caller's rights, of that agent or of any.

        Raises:
            NotFoundError: ENOENT.
            CorruptError: EIO, the content is not what its name says.
            UnavailableError: EOPNOTSUPP, a newer version wrote it.
        """
        ...

    async def listed(
        self, cred: Credentials, agent_id: str, limit: int | None = None
    ) -> list[CheckpointInfo]:
        """Those of one agent, newest first."""
        ...

    async def delete(self, cred: Credentials, agent_id: str, checkpoint_hash: str) -> bool:
        """Removes one; False when there was none."""
        ...


def encoded(snapshot: Snapshot) -> bytes:
    """The bytes of a checkpoint."""
    body = {"format": FORMAT, "version": VERSION, **asdict(snapshot)}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def hash_of(data: bytes) -> str:
    """The name of a checkpoint: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def decoded(data: bytes) -> Snapshot:
    """The state that the bytes of any version hold. CorruptError, UnavailableError."""
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise ValueError("another format")
        version = int(body["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptError("not a checkpoint") from None
    reader = READERS.get(version)
    if reader is None:
        raise UnavailableError(
            f"the checkpoint has version {version} and this NexusFS reads up to {VERSION}: "
            "use a newer one"
        )
    try:
        return reader(body)
    except ValueError:
        raise CorruptError("the checkpoint lacks something, or has it wrong") from None


Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Function(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    arguments: str | None = None


class _Call(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str = Field(min_length=1)
    function: _Function


class _Message(BaseModel):
    """What a message must have; providers add fields of their own, which stay."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> "_Message":
        if self.role != "assistant" and (self.tool_calls or self.content is None):
            raise ValueError(f"a message of {self.role} has a text and calls nothing")
        return self


class _Version1(BaseModel):
    """The content of a file that anybody may have written; what it says becomes a journal."""

    model_config = ConfigDict(strict=True)

    agent_id: Name
    pid: Count
    zone: Name
    spec: dict[str, Any]
    turns: Count
    rounds: Count
    kept_from: Count
    summary: str
    transcript: list[_Message]
    mail: list[str]

    @model_validator(mode="after")
    def _is_a_history(self) -> "_Version1":
        if self.kept_from > len(self.transcript):
            raise ValueError("kept_from is after the end")
        due: set[str | None] = set()
        for message in self.transcript:
            if message.role == "tool" and message.tool_call_id in due:
                due.remove(message.tool_call_id)
                continue
            calls = message.tool_calls or []
            fits = message.role != "tool" and len({call.id for call in calls}) == len(calls)
            if due or not fits:
                raise ValueError("each call has an id of its own, and its result right after it")
            due.update(call.id for call in calls)
        return self


def _version_1(body: dict[str, Any]) -> Snapshot:
    """The state as it is written, once it is known to be one. ValueError."""
    if is_too_deep(body, MAX_DEPTH + 8):  # a spec has MAX_DEPTH, and calls are six levels down
        raise ValueError("nested too deep")
    _Version1.model_validate(body)
    return Snapshot(**{name: body[name] for name in Snapshot.__dataclass_fields__})


READERS: dict[int, Callable[[dict[str, Any]], Snapshot]] = {1: _version_1}
"""By version. An old reader stays for good: a checkpoint may come from anywhere."""


class NoCheckpoints:
    """What stands where there is no store of checkpoints."""

    async def save(
        self, cred: Credentials, snapshot: Snapshot, *, automatic: bool = False
    ) -> CheckpointInfo:
        """UnavailableError EOPNOTSUPP."""
        raise UnavailableError("checkpoints are not available here")

    async def load(self, cred: Credentials, checkpoint_hash: str, agent_id: str | None) -> Snapshot:
        """UnavailableError EOPNOTSUPP."""
        raise UnavailableError("checkpoints are not available here")

    async def listed(
        self, cred: Credentials, agent_id: str, limit: int | None = None
    ) -> list[CheckpointInfo]:
        """None."""
        return []

    async def delete(self, cred: Credentials, agent_id: str, checkpoint_hash: str) -> bool:
        """There is none."""
        return False
