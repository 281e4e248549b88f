"""The registered hooks, and the three ways to run a point; see `contracts.hooks`.

Concurrency: in the trio thread. A point runs its hooks one after the other; two calls of the same
point may overlap where a hook suspends.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from nexusfs.contracts.errors import InvalidError, KernelError, error_of
from nexusfs.contracts.hooks import POINTS, HookContext

log = logging.getLogger(__name__)

Method = Callable[[Any], Awaitable[None] | None]


class Hooks:
    """Hooks by point, in order of registration."""

    def __init__(self) -> None:
        """None yet. `start` runs an async function in the kernel's nursery; boot sets it."""
        self._methods: dict[str, list[tuple[str, Method, bool]]] = {point: [] for point in POINTS}
        self.start: Callable[[Callable[[], Awaitable[None]]], None] = _no_nursery

    def register(self, hook: object, name: str | None = None) -> None:
        """Adds a hook; `name` is what warnings call it. InvalidError EINVAL without a method."""
        found = {point: getattr(hook, point, None) for point in POINTS}
        methods = {point: method for point, method in found.items() if callable(method)}
        if not methods:
            raise InvalidError(f"the hook {hook!r} has none of the methods {', '.join(POINTS)}")
        for point, method in methods.items():
            suspends = inspect.iscoroutinefunction(method)
            self._methods[point].append((name or type(hook).__name__, method, suspends))

    def on(self, point: str) -> bool:
        """True when somebody listens to the point."""
        return bool(self._methods[point])

    async def before(self, point: str, context: HookContext) -> None:
        """Runs a point that may refuse: the first error is raised, later hooks are not run."""
        for name, method, _ in self._methods[point]:
            try:
                await _run(method, context)
            except KernelError:
                raise
            except OSError as exc:
                raise error_of(exc.errno or 0, f"hook {name}: {exc.strerror or exc}") from exc
            except BaseException as exc:
                if not is_contained(exc):
                    raise
                log.exception("hook %s failed in %s", name, point)
                raise KernelError(f"hook {name} failed: {type(exc).__name__}: {exc}") from exc

    async def after(self, point: str, context: HookContext) -> None:
        """Runs a point that cannot refuse: an error is a warning, and later hooks still run."""
        for name, method, _ in self._methods[point]:
            await _guarded(name, method, context)

    def now(self, point: str, context: HookContext) -> None:
        """Runs a point inside something atomic: plain methods at once, async ones beside it."""
        for name, method, suspends in self._methods[point]:
            if suspends:
                self.start(partial(_guarded, name, method, context))
                continue
            try:
                method(context)
            except BaseException as exc:
                if not is_contained(exc):
                    raise
                log.error("hook %s failed in %s: %s", name, point, exc)


def is_contained(exc: BaseException) -> bool:
    """True for what code of others may raise without more than its call failing.

    That is also `sys.exit`, which argparse calls; not a cancellation, nor Ctrl-C.
    """
    if isinstance(exc, BaseExceptionGroup):
        return exc.split((Exception, SystemExit))[1] is None
    return isinstance(exc, Exception | SystemExit)


async def _run(method: Method, context: HookContext) -> None:
    result = method(context)
    if result is not None:
        await result


async def _guarded(name: str, method: Method, context: HookContext) -> None:
    try:
        await _run(method, context)
    except BaseException as exc:
        if not is_contained(exc):
            raise
        said = str(exc) or type(exc).__name__
        context.warnings.append(f"hook {name}: {said}")
        if not isinstance(exc, KernelError | OSError):
            log.exception("hook %s failed", name)


def _no_nursery(work: Callable[[], Awaitable[None]]) -> None:
    raise KernelError("the kernel is not running")
