"""What the benchmarks of our own worker share: its settings, its input, a run over a backlog, and what that shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import OURS
from benchmarks.measuring import Contender, Job, Member, Usage, Watcher, usage_of
from benchmarks.output import check
from benchmarks.workload import GRACE_MS, PARTITIONS, WINDOW_MS, Totals, Workload
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics

#: The worker with a sink that counts, and the worker itself: what ``faust -A`` gets.
COUNTING: Final = "benchmarks.our_worker"
REAL: Final = "feedback_app"

TOO_FEW: Final = "over before its clock could start: use more events"


def worker_settings(servers: str, app_id: str, data_dir: Path, **more: Any) -> Settings:
    """Return the settings of one worker process: those of production but for windows of a minute and no items."""
    return load_settings(
        _env_file=None,
        **{
            "broker_url": f"kafka://{servers}",
            "app_id": app_id,
            "partitions": PARTITIONS,
            "batch_time_ms": WINDOW_MS,
            "grace_ms": GRACE_MS,
            "idle_ms": 3_600_000,  # the ticks' windows stay open, however slow the rest is
            "max_batches": 10_000,
            "store_items": False,
            "data_dir": data_dir,
            "web_port": free_port(),
            **more,
        },
    )


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that is ready to be counted, and what a right answer holds.

    Attributes:
        settings: of a worker that counts it.
        records: on the topic, ticks included.
        totals: the right count of each window that becomes due.
    """

    settings: Settings
    records: int
    totals: Totals

    @classmethod
    def send(cls, settings: Settings, workload: Workload, every: int = 1, *, ticks: bool = True) -> Input:
        """Make the topics, and fill the one with every *every*-th event. Without *ticks* nothing is to become due."""
        topics = Topics.of(settings)
        # The worker makes the rest itself. These must be there before it: one is filled, the others are watched.
        early = {topics.feedback, topics.aggregates, topics.late}
        ensure_topics(settings, (spec for spec in topics.specs() if spec.name in early))
        records, totals = workload.send(settings.bootstrap_servers, topics.feedback, every, ticks=ticks)
        return cls(settings, records, totals if ticks else {})

    def job(self, **changes: Any) -> Job:
        """Return what there is to do; *changes* are made to its fields."""
        topics = Topics.of(self.settings)
        job = Job(
            self.settings.app_id,
            topics.feedback,
            self.records,
            topics.aggregates,
            len(self.totals),
            self.settings.partitions,
        )
        return replace(job, **changes)


class MeasuredWorker(WorkerProcess):
    """A worker whose CPU time and memory are watched."""

    @property
    def ended(self) -> bool:
        return not self.running

    def last_words(self) -> str:
        return self.end_of_log()

    def says(self, line: str) -> bool:
        return f"{line}\n" in self.log.read_text(errors="replace")

    def usage(self) -> Usage:
        return usage_of(self.pid)


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured of the worker in one run.

    Attributes:
        name: in results.
        records: how many were worked on while the clock ran.
        windows: how many became due.
        seconds: on the clock.
        cpu_us: CPU microseconds a record, of all processes; 0 where that is not known.
        peak_mb: the highest resident set of any process, in MB (1,000,000 bytes); 0 where that is not known.
        failure: what was not right; empty when everything was.
        began: when its clock was started, as ``time.monotonic`` tells it.
    """

    name: str
    records: int = 0
    windows: int = 0
    seconds: float = 0.0
    cpu_us: float = 0.0
    peak_mb: float = 0.0
    failure: str = ""
    began: float = 0.0

    @property
    def rate(self) -> float:
        """Records per second; 0 where there is none."""
        return self.records / self.seconds if self.seconds else 0.0

    def cells(self) -> Mapping[str, str]:
        """Return what a table shows, by heading."""
        return {
            "events": f"{self.records:,}",
            "windows": f"{self.windows:,}",
            "seconds": f"{self.seconds:,.1f}",
            "events/s": f"{self.rate:,.0f}",
            "CPU us": f"{self.cpu_us:.2f}" if self.cpu_us else "",
            "peak MB": f"{self.peak_mb:.1f}" if self.peak_mb else "",
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """Where workers run, one point after the other: topics, group and folder are named after the point.

    Attributes:
        servers: the broker, ``host:port``.
        prefix: what the names of all topics and groups start with.
        directory: for state and logs.
        timeout: for each wait, in seconds.
    """

    servers: str
    prefix: str
    directory: Path
    timeout: float

    def settings(self, name: str, **more: Any) -> Settings:
        """Return the settings of the point's worker."""
        unique = f"{self.prefix}{name}"
        named = {"mongodb_database": unique, "topic_prefix": f"{unique}-"}
        return worker_settings(self.servers, unique, more.pop("data_dir", self.directory / unique), **named, **more)

    def prepare(self, name: str, workload: Workload, *, ticks: bool = True, **more: Any) -> Input:
        """Fill the topic of the point *name*."""
        shape = {"partitions": workload.partitions, "batch_time_ms": workload.window_ms}
        return Input.send(self.settings(name, **shape, **more), workload, ticks=ticks)

    def backlog(self, name: str, workload: Workload, *, closes: bool = True, workers: int = 1) -> Point:
        """Measure *workers* processes of one group that find *workload* on their topic.

        The clock stops when every due window is published, and checked are those; without *closes* nothing becomes due,
        and it stops when the committed offsets cover all.

        Raises:
            ContenderFailed: they ended, or were not done in time.
        """
        return self.measure(name, self.prepare(name, workload, ticks=closes), workers=workers)

    def measure(self, name: str, given: Input, *, workers: int = 1) -> Point:
        """Measure as :meth:`backlog` does, what was prepared."""
        job, closes = given.job(members=workers), bool(given.totals)
        with Watcher(self.servers, job) as watcher, self.start(given.settings, workers) as contender:
            timing = watcher.time(contender, windows_too=closes, timeout=self.timeout)
            failure = ""
            if closes:
                watcher.collect(patience=0, quiet=2)
                verdict = check(watcher.published, given.totals)
                failure = "" if verdict.holds else str(verdict)
            elif watcher.read(0.5):
                failure = "windows were closed that were not due"
            cpu_us = timing.cpu_us if timing.records else 0.0
            peak_mb = contender.usage().peak_mb
            return Point(
                name, timing.records, job.windows, timing.seconds, cpu_us, peak_mb, failure, began=timing.began
            )

    def start(self, settings: Settings, workers: int) -> Contender:
        """Start worker processes that share *settings* but for the data dir and the web port; the first has those."""

        def member(index: int) -> Member:
            own = {"data_dir": settings.data_dir / str(index), "web_port": free_port()} if index else {}
            given = dict(environment(settings.model_copy(update=own)))
            return Member(OURS.command(), given, self.directory / f"{settings.app_id}-{index}.log")

        return Contender([member(index) for index in range(workers)])

    def worker(self, settings: Settings, app: str = COUNTING) -> MeasuredWorker:
        """Return a worker that is started on entering, and can be asked for its pages."""
        return MeasuredWorker(settings, self.directory / f"{settings.app_id}.log", app=app)
