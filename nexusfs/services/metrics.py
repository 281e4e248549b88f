"""sys/metrics: what the kernel counts, as Prometheus text."""

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nexusfs.kernel.syscalls import Syscalls

Gauges = Mapping[str, Callable[[], float]]


def render_metrics(calls: Syscalls, gauges: Gauges) -> bytes:
    """All counters and gauges in Prometheus's text format.

    The first call imports prometheus_client, 0.1 s.
    """
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  0.1 s: only who reads metrics pays

    registry = CollectorRegistry()
    registry.register(_Collector(calls, gauges))
    return generate_latest(registry)


class _Collector:
    """Reads the kernel's counters when asked."""

    def __init__(self, calls: Syscalls, gauges: Gauges) -> None:
        self._calls = calls
        self._gauges = gauges

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (  # noqa: PLC0415  0.1 s: only who reads metrics pays
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        gate = self._calls.gate
        total = CounterMetricFamily("nexusfs_syscalls", "System calls", labels=["call"])
        for call, count in gate.calls.items():
            total.add_metric([call], count)
        yield total
        failed = CounterMetricFamily("nexusfs_syscall_errors", "Failed", labels=["call", "errno"])
        for (call, number), count in gate.errors.items():
            failed.add_metric([call, errno.errorcode.get(number, str(number))], count)
        yield failed
        yield CounterMetricFamily("nexusfs_crashes", "Unexpected exceptions", value=gate.crashes)
        states = GaugeMetricFamily("nexusfs_agents", "Agents by state", labels=["state"])
        for state, count in self._by_state().items():
            states.add_metric([state], count)
        yield states
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"nexusfs_{name}", name.replace("_", " "), value=value())

    def _by_state(self) -> dict[str, int]:
        states: dict[str, int] = {}
        for process in self._calls.processes:
            states[process.state] = states.get(process.state, 0) + 1
        return states
