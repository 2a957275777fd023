"""Runs a contender as a process of its own and times it from outside, by what the broker knows of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

_POLL_SECONDS = 0.05
_STOP_SECONDS = 30.0
_ROOT = Path(__file__).parent.parent


class ContenderFailed(Exception):
    """The contender ended early, or did not get to the end in time."""


class Watched(Protocol):
    """What is known of a process from outside."""

    @property
    def ended(self) -> bool: ...

    def last_words(self) -> str:
        """Return the end of what it has written."""
        ...


class Contender:
    """A process: ``python *arguments*`` in the repository, its output going to *log*; stopped on leaving."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=_ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Return the end of what it has written."""
        return self._log.read_text(errors="replace")[-2_000:]


@dataclass(frozen=True, slots=True)
class Job:
    """What a contender has to do.

    Attributes:
        group: the consumer group that commits how far it has counted.
        source: the topic that it counts.
        records: how many records that topic holds.
        output: the topic where it publishes closed windows.
        windows: how many windows are due.
        partitions: of both topics.
    """

    group: str
    source: str
    records: int
    output: str
    windows: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Timing:
    """What the clock has shown.

    Attributes:
        records: how many were counted on the clock; of an input so small that the first committed offsets seen covered
            it, none.
        counting: the seconds until all of them were counted.
        seconds: the seconds until all was done.
    """

    records: int
    counting: float
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds


class Watcher:
    """Sees how far a contender has got without asking the contender."""

    def __init__(self, bootstrap_servers: str, job: Job) -> None:
        self._job = job
        self.published: list[bytes] = []
        # Not a member of the group: it only asks. Under read_committed the broker would have it wait for every
        # transaction that is about to commit offsets; those that are committed are all that it is told of either way.
        self._offsets = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": job.group, "isolation.level": "read_uncommitted"}
        )
        self._sources = [TopicPartition(job.source, partition) for partition in range(job.partitions)]
        self._output = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{job.group}-watcher",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
            }
        )
        outputs = [TopicPartition(job.output, partition) for partition in range(job.partitions)]
        for output in outputs:  # what an earlier round published lies before
            output.offset = self._output.get_watermark_offsets(output, timeout=10)[1]
        self._output.assign(outputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._offsets.close()
        self._output.close()

    def time(self, contender: Watched, *, windows_too: bool, timeout: float) -> Timing:
        """Wait until the work is done, and time it.

        The clock starts when the first committed offsets are seen, and the records that they cover are not counted. So
        neither the start of the process, nor its imports, nor its join of the group is on the clock. It stops when the
        committed offsets cover every record and, with *windows_too*, as many windows are published, readable with
        ``read_committed``, as are due.

        Raises:
            ContenderFailed: the process ended before that, or *timeout* seconds have passed.
        """
        deadline = time.monotonic() + timeout
        before, counted, started, counted_all = 0, 0, 0.0, 0.0
        while True:
            ended = contender.ended  # asked first: what it has done until then is seen below
            self._read(_POLL_SECONDS)
            if counted < self._job.records:
                counted = max(counted, self._counted())
            now = time.monotonic()
            if counted and not started:
                before, started = counted, now
            if counted >= self._job.records:
                counted_all = counted_all or now
                if not windows_too or len(self.published) >= self._job.windows:
                    return Timing(counted - before, counted_all - started, now - started)
            if ended or now > deadline:
                raise ContenderFailed(
                    f"{'it has ended' if ended else f'given up after {timeout:.0f} s'}: "
                    f"{counted} of {self._job.records} records counted, "
                    f"{len(self.published)} of {self._job.windows} windows published\n{contender.last_words()}"
                )

    def collect(self, *, patience: float, quiet: float, at_most: float = 300.0) -> None:
        """Go on collecting what is published until nothing has come for *quiet* seconds, *patience* for the first."""
        started = last = time.monotonic()
        while (now := time.monotonic()) - last < (quiet if self.published else patience) and now - started < at_most:
            if self._read(0.5):
                last = now

    def _counted(self) -> int:
        """Return how many records the group's committed offsets cover; 0 when the broker does not say."""
        try:
            committed = self._offsets.committed(self._sources, timeout=10)
        except KafkaException:
            return 0  # the group's coordinator is still being made or looked up; asked again until the deadline
        return sum(max(partition.offset, 0) for partition in committed)

    def _read(self, seconds: float) -> bool:
        """Collect what was published, for *seconds*; tell whether there was anything."""
        # Parsed when the clock has stopped: reading must cost the contender as little as it can.
        values = [message.value() for message in self._output.consume(10_000, seconds) if message.error() is None]
        self.published.extend(value for value in values if value is not None)
        return bool(values)
