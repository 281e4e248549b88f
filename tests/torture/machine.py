"""The state machine of tests/model, long: a mount and a kernel in process against a host's disk."""

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.mounted import Both, one_mount
from tests.torture.part import PartFailedError, Plan, check_quiet, need_root

STEPS = 10_000
EXAMPLES = 50
CALLS_EACH = 50


def state_machine(plan: Plan) -> str:
    """10,000 calls, made in three places; a failure is shrunk, which takes minutes."""
    need_root()
    runs = settings(
        max_examples=EXAMPLES, stateful_step_count=CALLS_EACH, deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        print_blob=False,
    )  # fmt: skip
    began, number = Machine.steps, plan.seed
    with one_mount(plan.directory) as mounts:
        while Machine.steps - began < STEPS:
            try:
                run_state_machine_as_test(seed(number)(Both), settings=runs)
            except AssertionError as exc:
                raise PartFailedError(
                    "\n".join([str(exc), *getattr(exc, "__notes__", [])])
                ) from exc
            number += 1
        check_quiet(mounts, killed=True)
    return f"{Machine.steps - began:,} calls on a mount, in process and on the host's disk"
