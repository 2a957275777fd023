"""How much memory one worker takes: ``python -m benchmarks.memory``, ``make bench-memory``.

One run, one real Kafka, each worker a process of its own with the settings of production (items off, windows of a
minute), and the input of ``benchmarks.workload``: 8 partitions, 10,000 agents with ten events in a window each.

======= =========================================================================== ================================
part    what happens                                                                what must hold
======= =========================================================================== ================================
backlog 1,000,000 events are there already: they are counted, their windows closed  5,000,000 take at most 1.15 times
        and published; then the same with 5,000,000. Documents go to a sink that    the memory of 1,000,000
        keeps nothing
outage  the database is killed, 1,000,000 events come, ten windows of every agent   below 300 MB, from the worker's
        become due, the worker goes on counting and says that it is degraded; the   start until all is delivered
        database comes back, and every document is stored
======= =========================================================================== ================================

The figure is the highest resident set size that the kernel has seen of the process (``VmHWM``; a MB is 1,000,000
bytes). It counts only if everything else was right: every event counted, and every due window published once, with the
right count; after the outage, with its document in the database.

``--more`` shows three further parts, without a bar: the larger backlog's state restored from the changelog to an empty
disk; 1,000,000 agents; and a flood of records that are invalid or late for good.

The last line on stdout is JSON, ``{"backlog_1m_mb": ..., "backlog_5m_mb": ..., "ratio": ..., "outage_mb": ...,
"holds": ...}``; ``--quick`` uses less input, and names it. Exit code 1: a bar was not met, or something was not right.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pymongo

from benchmarks.bench import REAL, Bench, Input, Point
from benchmarks.measuring import ContenderFailed, Watcher
from benchmarks.output import check
from benchmarks.services import broker, drop_topics, say
from benchmarks.workload import Flood, Totals, Workload
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.errors import FeedbackError
from feedback_app.settings import Settings
from feedback_app.topics import Topics

#: The bars.
MOST_RATIO: Final = 1.15
MOST_OUTAGE_MB: Final = 300.0

_AGENTS: Final = 10_000
_EVENTS_IN_A_WINDOW: Final = 10 * _AGENTS
#: For how long nothing changes, once all is counted and the database is still away: time enough to try again.
_AWAY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Size:
    """How many events each part gets."""

    few: int
    many: int
    outage: int


FULL: Final = Size(1_000_000, 5_000_000, 1_000_000)
QUICK: Final = Size(200_000, 1_000_000, 300_000)


@dataclass(frozen=True, slots=True)
class MemoryBench(Bench):
    """The parts. Their records are all that were there, on the clock or not."""

    def whole_backlog(self, name: str, workload: Workload) -> Point:
        """Measure a worker that finds *workload* on its topic."""
        return replace(self.backlog(name, workload), records=workload.events + workload.partitions)

    def restore(self, name: str) -> Point:
        """Measure the worker of the *backlog* of that name, started again on an empty disk."""
        ours = self.settings(name, data_dir=self.directory / "empty")
        started = time.monotonic()
        with self.worker(ours) as worker:
            worker.wait_until_ready(self.timeout)
            return Point("restore", seconds=time.monotonic() - started, peak_mb=worker.usage().peak_mb)

    def flood(self, name: str, workload: Flood) -> Point:
        """Measure a worker on records none of which is counted."""
        given, late = self.prepare(name, workload), workload.events // 2
        job = given.job(windows=late, output=Topics.of(given.settings).late)
        with Watcher(self.servers, job) as watcher, self.worker(given.settings) as worker:
            timing = watcher.time(worker, windows_too=True, timeout=self.timeout)
            watcher.collect(patience=0, quiet=2)
            failure = "" if len(watcher.published) == late else f"{len(watcher.published)} of {late} late"
            return Point(name, given.records, 0, timing.seconds, peak_mb=worker.usage().peak_mb, failure=failure)

    def outage(self, name: str, workload: Workload) -> Point:
        """Measure a worker that counts *workload* while the database is away, and delivers once it is back."""
        with EmbeddedDatabase() as database:
            ours = self.settings(name, mongodb_url=database.url)
            with self.worker(ours, app=REAL) as worker:
                worker.wait_until_ready()
                database.kill()
                given = Input.send(ours, workload)
                with Watcher(self.servers, given.job()) as watcher:
                    watcher.time(worker, windows_too=False, timeout=self.timeout)
                    watcher.collect(patience=_AWAY_S, quiet=_AWAY_S)
                    _, health = worker.get("/health/ready")
                    peak_mb = worker.usage().peak_mb
                    say(f"{'':15}all counted, {len(watcher.published)} windows published, {peak_mb:.1f} MB")
                    if watcher.published or (health or {}).get("status") != "degraded":
                        return Point(name, failure=f"the outage went unnoticed: {health}")
                    database.start()
                    timing = watcher.time(worker, windows_too=True, timeout=self.timeout)
                    watcher.collect(patience=0, quiet=2)
                totals, peak_mb = given.totals, worker.usage().peak_mb
                verdict = check(watcher.published, totals)
                stored = documents(ours)
                failure = "" if verdict.holds else str(verdict)
                if any(stored.get(window) != count for window, count in totals.items()):
                    failure += f" documents: {len(stored)} of {len(totals)}, or with other counts"
                return Point(name, given.records, len(totals), timing.seconds, peak_mb=peak_mb, failure=failure)


def documents(settings: Settings) -> Totals:
    """Return the counts that the database holds, as a workload gives the right ones."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(settings.mongodb_url.get_secret_value())
    counts = {}
    with client:
        for document in client[settings.mongodb_database].feedback_windows.find({}, {"count": 1}):
            agent_id, start, _ = document["_id"].split("|")
            counts[agent_id, int(start)] = document["count"]
    return counts


def parts(bench: MemoryBench, size: Size, *, more: bool) -> Iterator[Point]:
    """Run everybody; the first three are those that there is a bar for."""

    def workload(events: int, agents: int = _AGENTS) -> Workload:
        return Workload.just_over(events, agents, events // _EVENTS_IN_A_WINDOW)

    yield bench.whole_backlog(f"backlog-{short(size.few)}", workload(size.few))
    yield bench.whole_backlog(f"backlog-{short(size.many)}", workload(size.many))
    yield bench.outage("outage", workload(size.outage))
    if more:
        yield bench.restore(f"backlog-{short(size.many)}")
        yield bench.whole_backlog("many-agents", workload(size.few, size.few))
        yield bench.flood("flood", Flood(**asdict(workload(size.few))))


def line_of(part: Point) -> str:
    """Return a table's line."""
    what = f"{part.name:<15}{part.records:>12,}{part.windows:>12,}{part.seconds:>8.0f}{part.peak_mb:>9.1f}"
    return f"{what}  {part.failure or 'right'}"


def short(events: int) -> str:
    """Say 1000000 as 1m."""
    return f"{events // 1_000_000}m" if events % 1_000_000 == 0 else f"{events // 1_000}k"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="How much memory a worker takes.")
    parser.add_argument("--quick", action="store_true", help="200,000 and 1,000,000 events, an outage of three windows")
    parser.add_argument("--more", action="store_true", help="also what there is no bar for")
    parser.add_argument("--broker", metavar="URL", help="a running Kafka, instead of one started here")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for each wait (%(default)s)")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, show, judge."""
    arguments = parse()
    size = QUICK if arguments.quick else FULL
    prefix = f"memory-{uuid.uuid4().hex[:8]}-"
    print(f"{'part':<15}{'records':>12}{'windows':>12}{'seconds':>8}{'peak MB':>9}", flush=True)
    measured: list[Point] = []
    with broker(arguments.broker) as servers, tempfile.TemporaryDirectory(prefix=prefix) as directory:
        try:
            bench = MemoryBench(servers, prefix, Path(directory), arguments.timeout)
            for part in parts(bench, size, more=arguments.more):
                measured.append(part)
                print(line_of(part), flush=True)
        except (ContenderFailed, FeedbackError) as error:
            say(f"FAILED: {error}")
            return 1
        finally:
            if arguments.broker is not None:
                drop_topics(servers, prefix)
    few, many, outage = measured[:3]
    ratio = many.peak_mb / few.peak_mb
    holds = ratio <= MOST_RATIO and outage.peak_mb < MOST_OUTAGE_MB and not any(part.failure for part in measured)
    result = {f"backlog_{short(size.few)}_mb": round(few.peak_mb, 1)}
    result |= {f"backlog_{short(size.many)}_mb": round(many.peak_mb, 1)}
    result |= {"ratio": round(ratio, 3), "outage_mb": round(outage.peak_mb, 1)}
    print(json.dumps(result | {"holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
