"""When a store is flushed: a second after a change, sooner when much waits, and who waits for it.

Concurrency: one task, `run`, does rounds; all else happens in the callers' tasks. A round's
blocking steps are in a thread, and the calls of others go on meanwhile. Without the task (a
store that is used outside a running kernel) whoever finds the backlog full flushes it.
"""

import logging

import trio

from nexusfs.contracts.errors import KernelError, NoSpaceError
from nexusfs.contracts.store import Store

log = logging.getLogger(__name__)

AGE_S = 1.0
"""How long a change may wait. Short-lived files are gone by then, and cost nothing further."""
MUCH = 0.25
"""Share of the backlog with which a round begins at once."""
RETRY_S = 1.0
"""Pause after a round that failed."""

_THREADS = trio.CapacityLimiter(1)


class WriteBack:
    """The rounds of flushing one store."""

    def __init__(self, store: Store) -> None:
        """Nothing runs yet."""
        self._store = store
        self._running = False
        self._clean = False
        self._said = ""
        self._some = trio.Event()
        self._much = trio.Event()
        self._round = trio.Event()

    def changed(self) -> None:
        """To be called after each change."""
        if self._clean:
            self._clean = False
            self._some.set()
        elif not self._running and self._store.backlog >= 1:
            self._store.flush()

    @property
    def behind(self) -> bool:
        """True when whoever is about to change something should `admit` first."""
        return self._running and self._store.backlog > MUCH

    async def admit(self) -> None:
        """Starts a round, and suspends while too much waits. Cancelling is harmless."""
        self._much.set()
        if self._store.backlog >= 1:
            self._some.set()
            await self._round.wait()

    async def run(self) -> None:
        """Flushes for ever. Cancelling waits for the round under way."""
        self._running = True
        self._some.set()  # What was there before.
        try:
            while True:
                await self._some.wait()
                with trio.move_on_after(AGE_S):
                    await self._much.wait()
                self._some, self._much = trio.Event(), trio.Event()
                self._clean = True
                done = await self._flush()
                self._round.set()
                self._round = trio.Event()
                if not done:
                    self._some.set()
                    await trio.sleep(RETRY_S)
        finally:
            self._running = self._clean = False
            self._round.set()

    async def _flush(self) -> bool:
        """Erases what was removed, and does one round; False when the disk refused."""
        try:
            while self._store.reap():
                await trio.lowlevel.checkpoint()
            try:
                await self._round_of_flush()
            except NoSpaceError:
                self._store.flush()  # With the space of the reserve.
        except KernelError as exc:
            if str(exc) != self._said:
                log.error("what was acknowledged waits in the journal: %s", exc)
            self._said = str(exc)
            return False
        except Exception:  # A bug must not end the mount; the journal has everything.
            log.exception("what was acknowledged waits in the journal, the flush failed")
            return False
        self._said = ""
        return True

    async def _round_of_flush(self) -> None:
        round_ = self._store.begin_flush()
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(round_.seal, limiter=_THREADS)
                round_.take()
                await trio.to_thread.run_sync(round_.write, limiter=_THREADS)
        finally:
            round_.end()
