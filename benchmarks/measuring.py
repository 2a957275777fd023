"""Runs a contender as a process of its own and times it from outside, by what the broker knows of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from feedback_app.connections import answered

#: What a contender that commits no offsets writes when it sees its first record.
COUNTING = "counting"

_POLL_SECONDS = 0.05
_STOP_SECONDS = 30.0
_ROOT = Path(__file__).parent.parent


class ContenderFailed(Exception):
    """The contender ended early, or did not get to the end in time."""


class Watched(Protocol):
    """What is known of a process from outside."""

    @property
    def ended(self) -> bool: ...

    def says(self, line: str) -> bool:
        """Say whether it has written *line*."""
        ...

    def usage(self) -> Usage:
        """Return what it has used since its start."""
        ...

    def last_words(self) -> str:
        """Return the end of what it has written."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used since they began: CPU seconds of all, and the highest resident set of any, in MB."""

    cpu_seconds: float
    peak_mb: float


class Member:
    """One process of a contender, in the repository's directory; its output goes to *log*."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def usage(self) -> Usage:
        """Return what it has used; nothing, once it has ended."""
        return usage_of(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended.

        Raises:
            ContenderFailed: it has not in time.
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ContenderFailed(f"it has not ended within {seconds:g} s\n{self.log[-2_000:]}") from None

    def stop(self) -> None:
        """Ask it to end, and end it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


class Contender:
    """One process or several of one consumer group; all are stopped on leaving."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.stop()

    @property
    def ended(self) -> bool:
        """Whether one of them has."""
        return any(member.ended for member in self.members)

    def says(self, line: str) -> bool:
        """Say whether each of them has written *line*."""
        return all(f"{line}\n" in member.log for member in self.members)

    def usage(self) -> Usage:
        """Return what they have used: the CPU seconds of all, and the memory of the largest."""
        used = [member.usage() for member in self.members]
        return Usage(sum(each.cpu_seconds for each in used), max(each.peak_mb for each in used))

    def last_words(self) -> str:
        """Return the end of what they have written."""
        return "\n".join(member.log[-2_000:] for member in self.members)


def usage_of(pid: int) -> Usage:
    """Return what a process has used, as Linux counts it; nothing, once it has ended."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return Usage(0.0, 0.0)
    ticks = int(fields[11]) + int(fields[12])
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(peak) * 1024 / 1_000_000)


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
        members: how many processes share the work.
        commits: whether the group's committed offsets tell how far it has counted.
    """

    group: str
    source: str
    records: int
    output: str
    windows: int
    partitions: int
    members: int = 1
    commits: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """What the clock has shown.

    Attributes:
        records: how many were counted on the clock; of an input so small that the first committed offsets seen covered
            it, none.
        seconds: until all was done.
        used: what the contender has used meanwhile; the memory is its highest since its start.
        began: when the clock was started, as ``time.monotonic`` tells it to every process of this machine.
    """

    records: int
    seconds: float
    used: Usage
    began: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds a record."""
        return 1_000_000 * self.used.cpu_seconds / self.records


class Watcher:
    """Sees how far a contender has got without asking the contender."""

    def __init__(self, bootstrap_servers: str, job: Job) -> None:
        self._job = job
        #: What was published, and the wall clock's seconds when each of it was seen.
        self.published: list[bytes] = []
        self.seen_at: list[float] = []
        # Not a member of the group: it only asks. Under read_committed the broker would have it wait for every
        # transaction that is about to commit offsets; those that are committed are all that it is told of either way.
        self._offsets = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": job.group, "isolation.level": "read_uncommitted"}
        )
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
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
            output.offset = answered(self._output.get_watermark_offsets)(output, timeout=10)[1]
        self._output.assign(outputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._offsets.close()
        self._output.close()

    def time(self, contender: Watched, *, windows_too: bool, timeout: float) -> Timing:
        """Wait until the work is done, and time it.

        The clock starts when all members have their partitions and the first committed offsets are seen; the records
        that those cover are not counted. So neither the start of a process, nor its imports, nor its join of the group
        is on the clock. Of a contender that commits no offsets, it starts when each of its members says that it counts.

        The clock stops, with *windows_too*, when as many windows are published, readable with ``read_committed``, as
        are due; without, when the committed offsets cover every record.

        Raises:
            ContenderFailed: the process ended before that, or *timeout* seconds have passed.
        """
        deadline = time.monotonic() + timeout
        before, counted, started = 0, 0, 0.0
        used = Usage(0.0, 0.0)
        while True:
            ended = contender.ended  # asked first: what it has done until then is seen below
            self.read(_POLL_SECONDS)
            if self._job.commits and (not started or not windows_too):
                counted = max(counted, self.counted())
            now = time.monotonic()
            if not started and self._has_begun(contender, counted):
                before, started, used = counted, now, contender.usage()
            if started and (len(self.published) >= self._job.windows if windows_too else counted >= self._job.records):
                after = contender.usage()
                used = Usage(after.cpu_seconds - used.cpu_seconds, after.peak_mb)
                return Timing(self._job.records - before, now - started, used, started)
            if ended or now > deadline:
                raise ContenderFailed(
                    f"{'it has ended' if ended else f'given up after {timeout:.0f} s'}: "
                    f"{max(counted, self.counted())} of {self._job.records} records counted, "
                    f"{len(self.published)} of {self._job.windows} windows published\n{contender.last_words()}"
                )

    def collect(self, *, patience: float, quiet: float, at_most: float = 300.0) -> None:
        """Go on collecting what is published until nothing has come for *quiet* seconds, *patience* for the first."""
        started = last = time.monotonic()
        while (now := time.monotonic()) - last < (quiet if self.published else patience) and now - started < at_most:
            if self.read(0.5):
                last = now

    def _has_begun(self, contender: Watched, counted: int) -> bool:
        if not self._job.commits:
            return contender.says(COUNTING)
        if not counted or self._job.members == 1:
            return counted > 0
        described = self._admin.describe_consumer_groups([self._job.group])[self._job.group].result()
        return sum(bool(member.assignment.topic_partitions) for member in described.members) == self._job.members

    def counted(self) -> int:
        """Return how many records the group's committed offsets cover; 0 when the broker does not say."""
        try:
            committed = self._offsets.committed(self._sources, timeout=10)
        except KafkaException:
            return 0  # the group's coordinator is still being made or looked up; asked again until the deadline
        return sum(max(partition.offset, 0) for partition in committed)

    def read(self, seconds: float) -> bool:
        """Collect what was published, for *seconds*; tell whether there was anything."""
        # Parsed when the clock has stopped: reading must cost the contender as little as it can.
        messages = [message for message in self._output.consume(10_000, seconds) if message.error() is None]
        values = [value for message in messages if (value := message.value()) is not None]
        self.published.extend(values)
        self.seen_at.extend([time.time()] * len(values))
        return bool(messages)
