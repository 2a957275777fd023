"""A restore from an empty disk, from the start of the process until it is ready, against stock Faust's.

Ours restores the changelog that a worker of ours has written: open windows, many of them in two versions. Stock Faust
hangs on a changelog with transactions, so it gets its own, byte by byte what its table writes for the same events, a
record an event, up to as many records. It has nothing to count either.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import orjson

from benchmarks.bench import Bench, Point
from benchmarks.contenders import STOCK
from benchmarks.measuring import Contender, ContenderFailed, Member
from benchmarks.scale.results import Bar, Part, attempt, ratio
from benchmarks.scale.topics import Contents, contents
from benchmarks.workload import Workload, produce, producer_to
from feedback_app.admin import Admin
from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.worker import environment
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics, TopicSpec

LEAST_TIMES_STOCK: Final = 10.0

_POLL_S: Final = 0.05
_LOOKED_AT: Final = 50
#: What stock Faust logs once its tables are restored, and then when it serves.
_RESTORED: Final = "Done reading from changelog topics"
_READY: Final = "Worker ready"


@dataclass(frozen=True, slots=True)
class Restore:
    """The part: *events* are counted, of half as many agents, in one window that stays open."""

    bench: Bench
    events: int
    say: Callable[[str], None]

    def part(self) -> Part:
        """Measure both."""
        workload = Workload.just_over(self.events, self.events // 2, 1)
        facts: dict[str, float] = {}
        rows = []
        for name, measure in (("ours", self._ours), ("stock Faust", self._stock)):
            rows.append(attempt(name, partial(measure, name, workload, facts), self.say))
        value = ratio(rows[0].rate, rows[1].rate)
        bar = Bar(
            "restore_rate", "changelog records a second, ours to stock Faust", value, LEAST_TIMES_STOCK, at_most=False
        )
        return Part("restore", "restore, in changelog records", rows, [bar], facts)

    def _ours(self, name: str, workload: Workload, facts: dict[str, float]) -> Point:
        given = self.bench.prepare("restore", workload, ticks=False)
        counted = self.bench.measure("restore", given)
        changelog = contents(self.bench.servers, Topics.of(given.settings).changelog, workload.partitions)
        facts |= _facts(changelog, workload)
        ours = given.settings.model_copy(update={"data_dir": self.bench.directory / "empty"})
        point, kept = (self._started(name, ours, changelog.records, workload) for _ in range(2))
        facts["seconds_to_start"] = kept.seconds  # the second time, everything is on the disk
        facts["seconds_to_restore"] = point.seconds
        return replace(point, failure=counted.failure or point.failure or kept.failure)

    def _started(self, name: str, ours: Settings, records: int, workload: Workload) -> Point:
        started = time.monotonic()
        with self.bench.worker(ours) as worker:
            worker.wait_until_ready(self.bench.timeout)
            seconds, used = time.monotonic() - started, worker.usage()
            failure = self._wrong(worker.get, workload)
        return Point(name, records, 0, seconds, 1_000_000 * used.cpu_seconds / records, used.peak_mb, failure)

    def _wrong(self, get: Callable[[str], tuple[int, Any]], workload: Workload) -> str:
        """Say what is wrong with some agents' restored windows; empty when nothing is."""
        totals = Counter(record.agent_id for record in workload.records())
        for agent_id in list(totals)[:: max(1, len(totals) // _LOOKED_AT)]:
            status, answer = get(f"/feedback/agents/{agent_id}")
            if status != 200 or [window["count"] for window in answer["open"]] != [totals[agent_id]]:
                return f"{agent_id}: {totals[agent_id]} events were counted, restored is {answer}"
        return ""

    def _stock(self, name: str, workload: Workload, facts: dict[str, float]) -> Point:
        settings = self.bench.settings("stock", batch_time_ms=workload.window_ms)
        records = int(facts.get("changelog_records", workload.events))
        _fill(settings, workload, records)
        log = self.bench.directory / "stock.log"
        started = time.monotonic()
        member = Member([*STOCK.command()[:-1], "info"], dict(environment(settings)), log)
        with Contender([member]):
            while _READY not in member.log:
                if member.ended or time.monotonic() - started > self.bench.timeout:
                    raise ContenderFailed(f"stock Faust has not restored {records} records\n{member.log[-2_000:]}")
                time.sleep(_POLL_S)
            seconds, used = time.monotonic() - started, member.usage()
        failure = "" if _RESTORED in member.log else "it says nothing of having restored anything"
        return Point(name, records, 0, seconds, 1_000_000 * used.cpu_seconds / records, used.peak_mb, failure)


def _fill(settings: Settings, workload: Workload, records: int) -> None:
    """Write stock Faust's changelog of *workload*'s first *records* events, as its table would."""
    topics = Topics.of(settings)
    ensure_topics(settings, (spec for spec in topics.specs() if spec.name in {topics.feedback, topics.aggregates}))
    changelog = f"{settings.app_id}-counts-changelog"
    Admin(settings).create([TopicSpec(changelog, workload.partitions, {"cleanup.policy": "compact"})])
    producer = producer_to(settings.bootstrap_servers)
    counts: Counter[str] = Counter()
    homes: dict[str, int] = {}
    for _, record in zip(range(records), workload.records(), strict=False):
        agent_id, start = record.agent_id, record.window_start / 1_000
        if agent_id not in homes:
            homes[agent_id] = partition_of(agent_id, workload.partitions)
        counts[agent_id] += 1
        # The key and the window's first and last moment in seconds.
        key = orjson.dumps([agent_id, [start, start + workload.window_ms / 1_000 - 0.1]])
        produce(producer, changelog, str(counts[agent_id]).encode(), key, homes[agent_id])
    if producer.flush(60):
        raise RuntimeError(f"{changelog}: the broker did not take all of it")


def _facts(changelog: Contents, workload: Workload) -> dict[str, float]:
    """Return what the plan needs of the state: bytes, and records."""
    return {
        "changelog_records": changelog.records,
        "changelog_bytes_a_record": round(changelog.size / changelog.records, 1),
        "open_windows": changelog.live,
        "bytes_an_open_window": round(changelog.live_size / changelog.live, 1),
        "changelog_records_an_event": round(changelog.records / workload.events, 3),
    }
