"""A backlog, worked off as fast as that goes.

The topic is full before anybody starts. The clock runs from the first events read (of this application: from the first
committed offsets, and without the events that these cover) until every document is there. The batching services are
told to end as soon as they have read everything, and write all that is left at once: waiting for the batch time would
say nothing about their speed. This application closes its windows when the last records, which are later than the
windows, make them due. All write to the same database with the same write concern.

The events have scores and no tags: merging tags inside an update costs SecantusDB twice as much, which would say more
about it than about who asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.architectures.contenders import Architecture
from benchmarks.architectures.fleet import Fleet
from benchmarks.architectures.judging import Loss, judge
from benchmarks.architectures.place import Place
from benchmarks.bench import Input
from benchmarks.measuring import ContenderFailed, Watcher
from benchmarks.workload import PARTITIONS, Workload
from feedback_app.settings import Settings

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sustained:
    """What one architecture did with one backlog; *calls* and *operations* are of the whole run."""

    name: str
    what: str
    agents: int
    events: int = 0
    seconds: float = 0.0
    calls: float = 0.0
    operations: float = 0.0
    total: int = 0
    peak_mb: float = 0.0
    redis_mb: float = 0.0
    batches: int = 0
    timers: int = 0
    failure: str = ""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def calls_an_event(self) -> float:
        return self.calls / self.total if self.total else 0.0

    @property
    def operations_an_event(self) -> float:
        return self.operations / self.total if self.total else 0.0

    def cells(self) -> Mapping[str, str]:
        return {
            "agents": f"{self.agents:,}",
            "events": f"{self.total:,}",
            "events/s": f"{self.rate:,.0f}",
            "calls an event": f"{self.calls_an_event:.4f}",
            "operations an event": f"{self.operations_an_event:.3f}",
            "peak MB": f"{self.peak_mb:.0f}" + (f" + {self.redis_mb:.0f}" if self.redis_mb else ""),
            "batches": f"{self.batches:,}",
            "timers": f"{self.timers:,}",
        }


def sustained(place: Place, architecture: Architecture, events: int, agents: int, windows: int = 1) -> Sustained:
    """Measure *architecture* with a backlog of *windows* windows of a minute, with *events* of *agents* in each.

    Raises:
        ContenderFailed: it ended, or was not done in time.
    """
    workload = replace(Workload.just_over(events * windows, agents, windows), tags=False)
    settings = place.settings(architecture)
    given = Input.send(settings, workload)
    measure = _ours if architecture.ours else _batching
    row, loss = measure(place, architecture, settings, given)
    return replace(row, agents=agents, failure="" if loss.none else str(loss))


def _ours(place: Place, architecture: Architecture, settings: Settings, given: Input) -> tuple[Sustained, Loss]:
    job = given.job(members=architecture.members)
    with Watcher(place.servers, job) as watcher, place.fleet(architecture, settings) as fleet:
        timing = watcher.time(fleet, windows_too=True, timeout=place.timeout)
        metrics = fleet.metrics()
        row = Sustained(
            architecture.name,
            architecture.what,
            0,
            timing.records,
            timing.seconds,
            metrics["feedback_mongodb_command_duration_seconds_count"],
            metrics["feedback_mongodb_operations_total"],
            given.records,
            fleet.peak_mb(),
            batches=len({agent_id for agent_id, _ in given.totals}) + PARTITIONS,
            timers=architecture.members,
        )
        return row, judge(settings, given.totals, ours=True, wait_s=place.timeout)


def _batching(place: Place, architecture: Architecture, settings: Settings, given: Input) -> tuple[Sustained, Loss]:
    with place.fleet(architecture, settings) as fleet:
        wait_until_read(fleet, given.records, place.timeout)
        peak_mb = fleet.peak_mb()
        fleet.stop_in_order(place.timeout)
        told = fleet.told()
        row = Sustained(
            architecture.name,
            architecture.what,
            0,
            given.records,
            max(each["ended"] for each in told) - min(each["began"] for each in told if each["began"]),
            fleet.total("calls"),
            fleet.total("operations"),
            given.records,
            peak_mb,
            fleet.redis_mb(),
            round(fleet.total("peak_batches")),
            round(fleet.total("peak_timers")),
        )
        return row, judge(settings, given.totals, ours=False)


def wait_until_read(fleet: Fleet, records: int, timeout: float) -> None:
    """Wait until the members have read *records* between them.

    Raises:
        ContenderFailed: one has ended, or it took too long.
    """
    deadline = time.monotonic() + timeout
    while (read := fleet.total("consumed") + fleet.total("invalid")) < records:
        fleet.check()
        if time.monotonic() > deadline:
            raise ContenderFailed(f"{read:,.0f} of {records:,} records read in {timeout:g} s\n{fleet.last_words()}")
        time.sleep(_POLL_S)
