"""The kernel's side of the model worker: starts it at the first call, shares it among all.

Concurrency: `WorkerClient.run` owns a nursery with two tasks a connection, a reader and a writer.
`complete` runs in its caller's task: it puts a line on the outbox, waits for an event that the
reader sets, and takes its id out of `_Connection.calls` on the way out. All state is changed
between suspensions only, so no lock is needed. Invariant: an id is in `calls` exactly while a task
waits for it; a line of another id is dropped.

A connection that ends (the worker was killed, or sent a line over the limit) fails all its calls as
retryable, and the next call starts a new worker. Nothing of litellm or asyncio is imported here.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio
from pydantic_core import from_json

from nexusfs.contracts.errors import ModelError, UnavailableError
from nexusfs.contracts.model import ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.services.llm.prefixes import Prefixes
from nexusfs.services.llm.wire import LINE_BYTES

log = logging.getLogger(__name__)

RECEIVE_BYTES = 256 * 1024
LINES_A_STEP = 8
"""Lines between two checkpoints: 200 streams must not hold up who reads a status."""
CLEAN_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LANG": "C.UTF-8"}


class AttemptError(ModelError):
    """One attempt failed; `retry_after_s` is what the provider asked for."""

    def __init__(
        self, message: str, *, kind: str, retryable: bool, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, kind=kind, retryable=retryable)
        self.retry_after_s = retry_after_s


class WorkerDiedError(AttemptError):
    """The worker ended in the middle of the attempt, by no fault of the provider."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How the worker process is started.

    Attributes:
        env_fd: memfd with the user's environment as a JSON object; None when there is none. It is
            read from its start each time, so that a restarted worker can read it again.
        config_path: TOML file whose table `[keys]` the worker reads itself.
        stderr: descriptor for the worker's log; None is this process's own stderr.
        environment: of the process at its start; never a key.
        command: for tests.
    """

    env_fd: int | None = None
    config_path: str | None = None
    stderr: int | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(CLEAN_ENVIRONMENT))
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "nexusfs.services.llm.worker")


class _Pending:
    """One call that waits: its outcome is a reply object or an error."""

    __slots__ = ("done", "error", "observer", "reply")

    def __init__(self, observer: ModelObserver) -> None:
        self.observer = observer
        self.done = trio.Event()
        self.reply: dict[str, Any] | None = None
        self.error: AttemptError | None = None

    def fail(self, error: AttemptError) -> None:
        self.error = error
        self.done.set()


class _Connection:
    """One worker process and its socket."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self._pidfd = os.pidfd_open(process.pid)
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.calls: dict[int, _Pending] = {}
        self.closed = False
        self.litellm = ""
        self._outbox: list[bytes] = []
        self._outbox_filled = trio.Event()
        self._prefixes = Prefixes()

    def ask(self, number: int, call: ModelCall, what: str) -> None:
        """Queues a `call` or a `quote`, without the messages that the worker has.

        ModelError when it is long.
        """
        keep = self._prefixes.common(call.conversation, call.messages) if call.conversation else 0
        request = {
            "model": call.model,
            "conversation": call.conversation,
            "keep": keep,
            "messages": call.messages[keep:],
            "tools": call.tools,
            "settings": call.settings,
        }
        size_bytes = self.post({"id": number, what: request})
        if call.conversation:
            gone = self._prefixes.sent(call.conversation, call.messages, size_bytes)
            if gone:
                self.post({"forget": gone})

    def post(self, value: dict[str, Any]) -> int:
        """Queues one line and says its size; ModelError when it is too long. Does not suspend."""
        line = json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
        if len(line) > LINE_BYTES:
            raise ModelError(
                f"the request is {len(line)} bytes; at most {LINE_BYTES} go to a model",
                kind="context_length",
            )
        self._outbox.append(line)
        self._outbox_filled.set()
        return len(line)

    async def serve(self) -> None:
        """Reads and writes until either end closes, then ends the process and fails the calls."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.closed = True
            self.sock.close()
            with trio.CancelScope(shield=True):
                await self._end_process()
            self._fail_all()

    async def _end_process(self) -> None:
        """Kills and reaps the worker without a thread.

        By pidfd: Popen.kill() may reap by itself, and then there is nothing left to wait for.
        """
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await trio.lowlevel.wait_readable(self._pidfd)
        finally:
            os.close(self._pidfd)
        self.process.wait()

    async def _write(self) -> None:
        while True:
            await self._outbox_filled.wait()
            lines, self._outbox = self._outbox, []
            self._outbox_filled = trio.Event()
            data = memoryview(b"".join(lines))
            try:
                while data:
                    data = data[await self.sock.send(data) :]
            except OSError:
                return  # the reader sees the end too

    async def _read(self) -> None:
        """Takes lines until end of file, an error, or a line over the limit."""
        rest = bytearray()
        while True:
            try:
                data = await self.sock.recv(RECEIVE_BYTES)
            except OSError:
                return
            if not data:
                return
            rest += data
            if b"\n" in data:
                *lines, last = rest.split(b"\n")
                rest = bytearray(last)
                for number, line in enumerate(lines, 1):
                    self._take(line)
                    if number % LINES_A_STEP == 0:
                        await trio.lowlevel.checkpoint()
            if len(rest) > LINE_BYTES:
                log.error("the model worker sent a line over %d bytes; it is ended", LINE_BYTES)
                return

    def _take(self, line: bytes | bytearray) -> None:
        """Hands one line to its call; garbage is logged and dropped."""
        try:
            self._deliver(from_json(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("the model worker sent a line that is no message (%d bytes)", len(line))
        except Exception:  # an observer broke its promise; the other calls go on
            log.exception("an observer of a model call raised")

    def _deliver(self, value: dict[str, Any]) -> None:
        if "id" not in value:
            self._note(value)
            return
        pending = self.calls.get(value["id"])
        if pending is None:
            return
        if "text" in value:
            pending.observer.text(value["text"])
        elif "reply" in value:
            pending.reply = value["reply"]
            pending.done.set()
        else:
            error = value["error"]
            pending.fail(
                AttemptError(
                    str(error["message"]),
                    kind=str(error["kind"]),
                    retryable=bool(error["retryable"]),
                    retry_after_s=error.get("retry_after_s"),
                )
            )

    def _note(self, value: dict[str, Any]) -> None:
        """A line about the worker itself: hello, ready."""
        ready = value.get("ready")
        if ready is not None:
            self.litellm = ready.get("litellm", "")
            if "error" in ready:
                log.warning("litellm cannot be imported: %s", ready["error"])

    def _fail_all(self) -> None:
        how = _how_it_ended(self.process.returncode)
        for pending in self.calls.values():
            if not pending.done.is_set():
                pending.fail(
                    WorkerDiedError(f"the model worker {how}", kind="connection", retryable=True)
                )


class WorkerClient:
    """One worker process, restarted when it dies; `complete` makes one attempt, without retries."""

    def __init__(self, setup: WorkerSetup | None = None) -> None:
        self._setup = setup or WorkerSetup()
        self._nursery: trio.Nursery | None = None
        self._connection: _Connection | None = None
        self._last_id = 0
        self.starts = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves calls until it is cancelled; then no worker and no task is left."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._connection = None

    @property
    def pid(self) -> int | None:
        """The worker's process id; None before the first call and after its death."""
        connection = self._connection
        return None if connection is None or connection.closed else connection.process.pid

    @property
    def state(self) -> str:
        """One line for sys/services."""
        if self._nursery is None:
            return "off"
        if self.pid is None:
            return "running, its worker starts at the first call"
        version = self._connection.litellm if self._connection else ""
        what = f"litellm {version}" if version else "importing litellm"
        return f"running, worker {self.pid}, {what}"

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """One attempt at `call`.

        Raises:
            AttemptError: EREMOTEIO, the provider or the worker failed.
            ModelError: EREMOTEIO, the request is too long.
            UnavailableError: EOPNOTSUPP, `run` is not running.

        Suspends until the answer is whole. Cancelling closes the provider's connection.
        """
        return _reply_of(await self._asked(call, observer, "call"))

    async def quote(self, call: ModelCall) -> Quote:
        """Counts the prompt of a call and names its price. AttemptError, as for `complete`."""
        return _quote_of(await self._asked(call, _Silent(), "quote"))

    async def _asked(self, call: ModelCall, observer: ModelObserver, what: str) -> dict[str, Any]:
        connection = self._open()
        self._last_id += 1
        number = self._last_id
        pending = _Pending(observer)
        connection.ask(number, call, what)
        connection.calls[number] = pending
        try:
            await pending.done.wait()
        finally:
            del connection.calls[number]
            if not pending.done.is_set() and not connection.closed:
                connection.post({"id": number, "cancel": True})
        if pending.error is not None:
            raise pending.error
        return pending.reply or {}

    def _open(self) -> _Connection:
        """The living connection, or a new one. Does not suspend: a start takes 1 or 2 ms."""
        if self._nursery is None:
            raise UnavailableError("the model worker is off")
        if self._connection is None or self._connection.closed:
            self._connection = _start(self._setup)
            self.starts += 1
            self._nursery.start_soon(self._connection.serve)
        return self._connection


def _start(setup: WorkerSetup) -> _Connection:
    """A new worker process.

    subprocess.Popen in this thread and not trio's open_process, which starts it in a pool thread:
    the worker asks Linux to be killed when the thread that made it dies (prctl(2),
    PR_SET_PDEATHSIG).
    """
    ours, theirs = socket.socketpair()
    with theirs:
        fds = [theirs.fileno()] + ([] if setup.env_fd is None else [setup.env_fd])
        arguments = [str(theirs.fileno()), "-" if setup.env_fd is None else str(setup.env_fd)]
        if setup.config_path is not None:
            arguments.append(setup.config_path)
        try:
            process = subprocess.Popen(
                [*setup.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=setup.stderr if setup.stderr is not None else subprocess.DEVNULL,
                stderr=setup.stderr,
                env=dict(setup.environment),
                cwd="/",
                pass_fds=fds,
                start_new_session=True,  # a terminal's Ctrl-C is the kernel's to handle
            )
        except OSError as exc:
            ours.close()
            raise AttemptError(
                f"the model worker cannot be started: {exc.strerror}",
                kind="connection",
                retryable=True,
            ) from exc
    return _Connection(process, ours)


def _how_it_ended(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"was ended by signal {-returncode}"
    return f"ended with status {returncode}"


class _Silent:
    """Hears of a quote, of which there is nothing to hear."""

    def text(self, piece: str) -> None:
        """There is none."""

    def retry(self, model: str, error: str, delay_s: float) -> None:
        """There is none."""


def _quote_of(reply: dict[str, Any]) -> Quote:
    """The worker's quote as the port wants it; AttemptError when it is malformed."""
    try:
        prices = {name: reply[name] for name in ("input_usd", "output_usd")}
        paid = {name: None if usd is None else float(usd) for name, usd in prices.items()}
        most = reply["max_output_tokens"]
        return Quote(reply["model"], int(reply["input_tokens"]), **paid, max_output_tokens=most)
    except (KeyError, TypeError, ValueError):
        raise AttemptError(
            "the model worker sent a malformed quote", kind="connection", retryable=True
        ) from None


def _reply_of(reply: dict[str, Any]) -> ModelReply:
    """The worker's reply object as the port wants it; AttemptError when it is malformed."""
    try:
        usage = reply["usage"]
        cost = usage["cost_usd"]
        return ModelReply(
            message=reply["message"],
            usage=Usage(
                int(usage["input_tokens"]),
                int(usage["output_tokens"]),
                None if cost is None else float(cost),
            ),
            model=reply["model"],
            finish_reason=reply.get("finish_reason"),
            window_tokens=reply.get("window_tokens"),
        )
    except (KeyError, TypeError, ValueError):
        raise AttemptError(
            "the model worker sent a malformed reply", kind="connection", retryable=True
        ) from None
