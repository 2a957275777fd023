"""How much memory one worker takes: ``python -m benchmarks.memory``, ``make bench-memory``.

One run, one real Kafka, the worker as a process of its own with the settings of production (items off), the input of
``benchmarks.workload``: 10,000 agents, 8 partitions, one-minute windows of event time, ten events in each.

==================== ================================================================== ===========================
part                 what happens                                                       what must hold
==================== ================================================================== ===========================
backlog              a worker works off 1,000,000 events that are there already, closes the second takes at most 1.15
                     and publishes their windows; another one 5,000,000. Documents go   times the memory of the
                     to a sink that counts                                              first
outage               the database is killed, ten windows of 10,000 agents each become   below 300 MB, to the end
                     due, the worker goes on counting; the database comes back, and all
                     is delivered
==================== ================================================================== ===========================

The figure is the highest resident set size that the kernel has seen of the process (``VmHWM``), from its start until
all is done: every event counted, every due window published once with the right count and, after the outage, every
document in the database.

With ``--more`` two further parts are shown, for which there is no bar: 1,000,000 agents, and a flood of records that
are late or invalid.

The last line on stdout is JSON, ``{"backlog_1m_mb": ..., "backlog_5m_mb": ..., "ratio": ..., "outage_mb": ...,
"holds": ...}``, with ``--quick`` for the smaller input named accordingly. A MB is 1,000,000 bytes. Exit code 1: a bar
was not met, or something was counted wrong.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pymongo

from benchmarks.measuring import ContenderFailed, Job, Watcher
from benchmarks.output import check
from benchmarks.services import broker
from benchmarks.workload import GRACE_MS, PARTITIONS, WINDOW_MS, Totals, Workload
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics

#: The bars.
MOST_RATIO: Final = 1.15
MOST_OUTAGE_MB: Final = 300.0

_AGENTS: Final = 10_000
_PER_WINDOW: Final = 10
#: For how long nothing changes, once all is counted and the database is still away: time enough to try again.
_AWAY_S: Final = 10.0


class Measured(WorkerProcess):
    """A worker whose memory is watched."""

    @property
    def ended(self) -> bool:
        return not self.running

    def last_words(self) -> str:
        return self.end_of_log()

    @property
    def peak_mb(self) -> float:
        """The highest resident set size since its start."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak) * 1024 / 1_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """What was measured of one worker; *failure* says what went wrong."""

    name: str
    events: int
    windows: int
    peak_mb: float = 0.0
    seconds: float = 0.0
    failure: str = ""

    def __str__(self) -> str:
        line = f"{self.name:<16}{self.events:>12,}{self.windows:>11,}{self.seconds:>9.1f}{self.peak_mb:>10.1f}"
        return f"{line}  {self.failure or 'all counted, once each, right'}"


@dataclass(slots=True)
class Bench:
    """Where the parts run."""

    servers: str
    prefix: str
    directory: Path
    timeout: float
    parts: list[Part] = field(default_factory=list)

    def settings(self, name: str, mongodb_url: str = "mongodb://127.0.0.1:1") -> Settings:
        """Return a worker's settings: those of production, with topics and a folder for this part alone."""
        unique = f"{self.prefix}{name}-"
        ours = load_settings(
            _env_file=None,
            broker_url=f"kafka://{self.servers}",
            mongodb_url=mongodb_url,
            mongodb_database=unique,
            app_id=f"{unique}app",
            topic_prefix=unique,
            partitions=PARTITIONS,
            batch_time_ms=WINDOW_MS,
            grace_ms=GRACE_MS,
            max_batches=10_000,
            store_items=False,
            idle_ms=3_600_000,  # the ticks' windows stay open, however slow the rest is
            data_dir=self.directory / unique,
            web_port=free_port(),
        )
        ensure_topics(ours, Topics.of(ours).specs())
        return ours

    @contextmanager
    def worker(self, settings: Settings, app: str) -> Iterator[Measured]:
        """Run a worker."""
        with Measured(settings, self.directory / f"{settings.app_id}.log", app=app) as worker:
            yield worker

    def backlog(self, name: str, workload: Workload) -> Part:
        """Measure a worker that finds *workload* on the topic and works it off."""
        settings = self.settings(name)
        records, totals = workload.send(self.servers, Topics.of(settings).feedback)
        with (
            Watcher(self.servers, job_of(settings, records, len(totals))) as watcher,
            self.worker(settings, "benchmarks.our_worker") as worker,
        ):
            timing = watcher.time(worker, windows_too=True, timeout=self.timeout)
            watcher.collect(patience=0, quiet=2)
            verdict = check(watcher.published, totals)
            failure = "" if verdict.holds else str(verdict)
            return Part(name, records, len(totals), worker.peak_mb, timing.seconds, failure)

    def outage(self, name: str, workload: Workload) -> Part:
        """Measure a worker that counts *workload* while the database is away, and delivers once it is back."""
        with EmbeddedDatabase() as database:
            settings = self.settings(name, database.url)
            with self.worker(settings, "feedback_app") as worker:
                worker.wait_until_ready()
                database.kill()
                records, totals = workload.send(self.servers, Topics.of(settings).feedback)
                with Watcher(self.servers, job_of(settings, records, len(totals))) as watcher:
                    watcher.time(worker, windows_too=False, timeout=self.timeout)
                    watcher.collect(patience=_AWAY_S, quiet=_AWAY_S)
                    status, health = worker.get("/health/ready")
                    away_mb, published = worker.peak_mb, len(watcher.published)
                    say(f"{'':16}{published} of {len(totals):,} windows published while it was away, {away_mb:.1f} MB")
                    if published or status != 200 or health["status"] != "degraded":
                        raise ContenderFailed(f"the outage went unnoticed: {published} windows, {status}, {health}")
                    database.start()
                    timing = watcher.time(worker, windows_too=True, timeout=self.timeout)
                    verdict = check(watcher.published, totals)
                failure = "" if verdict.holds else str(verdict)
                stored = documents_of(settings)
                if stored != totals:
                    failure += f" {len(stored)} of {len(totals)} documents, or with other counts"
                return Part(name, records, len(totals), worker.peak_mb, timing.seconds, failure)


def job_of(settings: Settings, records: int, windows: int) -> Job:
    topics = Topics.of(settings)
    return Job(settings.app_id, topics.feedback, records, topics.aggregates, windows, settings.partitions)


def documents_of(settings: Settings) -> Totals:
    """Return the counts in the database, as the workload gives the right ones."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(settings.mongodb_url.get_secret_value())
    with client:
        found = client[settings.mongodb_database].feedback_windows.find({}, {"_id": 1, "count": 1})
        counts = {}
        for document in found:
            agent_id, start, _ = document["_id"].split("|")
            counts[agent_id, int(start)] = document["count"]
        return counts


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    b = sys.argv[1:]
    prefix = f"memory-{uuid.uuid4().hex[:8]}-"
    with broker(None) as servers, tempfile.TemporaryDirectory(prefix=prefix) as directory:
        bench = Bench(servers, prefix, Path(directory), 900)
        for part in b:
            kind, events, agents = part.split(":")
            n = int(events)
            w = Workload.just_over(n, int(agents), max(1, n // 100_000))
            print((bench.backlog if kind == "backlog" else bench.outage)(f"{kind}-{n}", w), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
