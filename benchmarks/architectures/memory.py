"""The memory of 10,000 agents' batches: the seed says 100 MB and more.

The process is up and has its partitions; then so many events of each agent come as its batches hold without becoming
full, and none of them is due. Shown is by how much its resident memory has grown when all are read, and for Redis also
that of the server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.architectures.contenders import Architecture
from benchmarks.architectures.place import Place
from benchmarks.architectures.sustained import wait_until_read
from benchmarks.bench import Input
from benchmarks.measuring import ContenderFailed, Watcher
from benchmarks.workload import Workload
from feedback_app.provisioning import ensure_topics
from feedback_app.topics import Topics

#: Nothing becomes due meanwhile.
_WINDOW_MS: Final = 3_600_000
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Held:
    """What batches take.

    Attributes:
        items: events in memory at the end; those that this application has counted are not kept.
        before_mb: resident, before the first event.
        grown_mb: by how much that grew.
        redis_mb: by how much Redis grew.
    """

    name: str
    what: str
    agents: int
    events: int
    items: int = 0
    batches: int = 0
    timers: int = 0
    before_mb: float = 0.0
    grown_mb: float = 0.0
    redis_mb: float = 0.0
    failure: str = ""

    def cells(self) -> Mapping[str, str]:
        return {
            "agents": f"{self.agents:,}",
            "events": f"{self.events:,}",
            "batches": f"{self.batches:,}",
            "events in memory": f"{self.items:,}",
            "timers": f"{self.timers:,}",
            "MB before": f"{self.before_mb:.0f}",
            "MB more": f"{self.grown_mb:.0f}" + (f" + {self.redis_mb:.0f} (Redis)" if self.redis_mb else ""),
        }


def held(place: Place, architecture: Architecture, agents: int, each: int) -> Held:
    """Measure the memory of *each* events of each of *agents*, on average.

    Raises:
        ContenderFailed: it ended, or was not done in time.
    """
    workload = Workload.just_over(agents * each, agents, 1, window_ms=_WINDOW_MS)
    settings = place.settings(architecture, batch_time_ms=_WINDOW_MS, max_batches=agents)
    ensure_topics(settings, Topics.of(settings).specs())
    job = Input(settings, workload.events, {}).job(members=architecture.members)
    with Watcher(place.servers, job) as watcher, place.fleet(architecture, settings) as fleet:
        fleet.wait_until_joined()
        before_mb, redis_before_mb = fleet.resident_mb(), fleet.redis_mb()
        workload.send(place.servers, Topics.of(settings).feedback, ticks=False)
        if architecture.ours:
            deadline = time.monotonic() + place.timeout
            while watcher.counted() < workload.events:
                fleet.check()
                if time.monotonic() > deadline:
                    raise ContenderFailed(f"{watcher.counted():,} of {workload.events:,} events counted")
                time.sleep(_POLL_S)
            items, batches, timers = 0, agents, architecture.members
        else:
            wait_until_read(fleet, workload.events, place.timeout)
            items, batches, timers = (round(fleet.total(name)) for name in ("items", "batches", "timers"))
        redis_mb = 0.0
        if architecture.shares_redis:
            redis_mb, items, batches = fleet.redis_mb() - redis_before_mb, workload.events, agents
        return Held(
            architecture.name,
            architecture.what,
            agents,
            workload.events,
            items,
            batches,
            timers,
            before_mb,
            fleet.resident_mb() - before_mb,
            redis_mb,
        )
