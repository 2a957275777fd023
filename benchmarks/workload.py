"""The input that every contender reads, and the totals that a right answer has: both follow from a seed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import Producer

from feedback_app.core.partitioning import partition_of
from feedback_app.simulation import cumulative_weights

PARTITIONS = 8
WINDOW_MS = 60_000
GRACE_MS = 5_000

#: How far an event may lie behind one that was sent before it; less than the grace, so that none is late.
_DISORDER_MS = 2_000
_CHUNK = 10_000

#: What an event may have after its required fields: scores and tags as a chat service would send them.
_USUAL = (
    *(f',"score":{score}}}' for score in (1, 2, 3, 4, 5, 5)),
    *("}" for _ in range(5)),
    ',"score":4,"tags":["helpful","fast"]}',
)
#: So many of these have no tags.
_TAGLESS = len(_USUAL) - 1
#: The same of people who say why: three tags of twenty, and a comment of some 100 characters.
_TALKATIVE = tuple(
    f',"score":{first % 5 + 1},"tags":["topic-{first}","topic-{(first + 7) % 20}","topic-{(first + 13) % 20}"],'
    f'"comment":"The answer to question {first} was what I needed, but it took too long to get to the point."}}'
    for first in range(20)
)
#: Longer than any closed window is kept by default.
_LONG_MS = 3 * 3_600_000


class Record(NamedTuple):
    """One record to send, and the window that it belongs to."""

    key: bytes
    value: bytes
    agent_id: str
    window_start: int


#: The right count of each (agent, window start).
Totals = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Workload:
    """*events* ratings of *agents* agents, spread evenly over *windows* windows.

    Attributes:
        start: the beginning of the first window, ms since the epoch.
        seed: what the events follow from.
        window_ms: the size of a window.
        partitions: of the topic.
        talkative: each event has a score, tags and a comment, and not the usual mixture.
        tags: the usual mixture has some with tags.
        skewed: a few agents get most of the ratings, as with ``simulate``; else all are as likely as each other.
    """

    events: int
    agents: int
    windows: int
    start: int
    seed: int = 1
    window_ms: int = WINDOW_MS
    partitions: int = PARTITIONS
    talkative: bool = False
    tags: bool = True
    skewed: bool = False

    @classmethod
    def just_over(
        cls,
        events: int,
        agents: int,
        windows: int = 10,
        *,
        window_ms: int = WINDOW_MS,
        partitions: int = PARTITIONS,
        talkative: bool = False,
        skewed: bool = False,
    ) -> Workload:
        """Return a workload that ended so lately that even its ticks are no future, and long enough ago to be due."""
        end = (time.time_ns() // 1_000_000 - WINDOW_MS) // window_ms * window_ms
        start = end - windows * window_ms
        return cls(
            events,
            agents,
            windows,
            start,
            window_ms=window_ms,
            partitions=partitions,
            talkative=talkative,
            skewed=skewed,
        )

    @property
    def end(self) -> int:
        """The end of the last window."""
        return self.start + self.windows * self.window_ms

    def records(self, every: int = 1) -> Iterator[Record]:
        """Yield every *every*-th event, in the order of their times but for a little disorder, the same each time."""
        rng = random.Random(self.seed)
        agents = [f"agent-{number:05d}" for number in range(self.agents)]
        keys = [agent.encode() for agent in agents]
        endings = _TALKATIVE if self.talkative else _USUAL if self.tags else _USUAL[:_TAGLESS]
        ratings = ("positive", "positive", "positive", "negative", "neutral")
        weights = cumulative_weights(self.agents) if self.skewed else None
        window_ms, events, start = self.window_ms, self.events, self.start
        span = self.windows * window_ms
        for first in range(0, events, _CHUNK):
            size = min(_CHUNK, events - first)
            who = rng.choices(range(self.agents), cum_weights=weights, k=size)
            rated = rng.choices(ratings, k=size)
            ended = rng.choices(endings, k=size)
            behind = rng.choices(range(_DISORDER_MS), k=size)
            for index, agent, rating, ending, delay in zip(
                range(first, first + size), who, rated, ended, behind, strict=True
            ):
                if index % every:
                    continue
                timestamp = max(start, start + index * span // events - delay)
                user = index * 7919 % 1_000_003
                value = (
                    f'{{"feedbackId":"feedback-{index:08d}","agentId":"{agents[agent]}","userId":"user-{user:07d}",'
                    f'"rating":"{rating}","timestamp":{timestamp}{ending}'
                )
                yield Record(keys[agent], value.encode(), agents[agent], timestamp - timestamp % window_ms)

    def ticks(self) -> Iterator[Record]:
        """Yield one event for each partition that is late enough to make all the windows before it due."""
        timestamp = self.end + GRACE_MS + 1
        for partition in range(self.partitions):
            agent = next(name for n in range(10_000) if partition_of(name := f"tick-{n}", self.partitions) == partition)
            value = (
                f'{{"feedbackId":"{agent}","agentId":"{agent}","userId":"tick","rating":"neutral",'
                f'"timestamp":{timestamp}}}'
            )
            yield Record(agent.encode(), value.encode(), agent, timestamp - timestamp % self.window_ms)

    def send(self, bootstrap_servers: str, topic: str, every: int = 1, *, ticks: bool = True) -> tuple[int, Totals]:
        """Send the events, then the ticks, to *topic*; return how many records that is, and the right totals.

        The totals hold the windows of the events only: those of the ticks stay open. Without *ticks* the last window
        stays open too.
        """
        producer = producer_to(bootstrap_servers)
        totals: Counter[tuple[str, int]] = Counter()
        sent = 0
        for record in self.records(every):
            produce(producer, topic, record.value, record.key)
            totals[record.agent_id, record.window_start] += 1
            sent += 1
        for record in self.ticks() if ticks else ():
            produce(producer, topic, record.value, record.key)
            sent += 1
        if producer.flush(60):
            raise RuntimeError(f"{topic}: the broker did not take all of the input")
        return sent, totals


@dataclass(frozen=True, slots=True)
class Flood(Workload):
    """As many records that are not counted, in turn: invalid (cut off), and so late that their windows are final."""

    def records(self, every: int = 1) -> Iterator[Record]:
        """Yield the ticks, which make the others late; then those, in the order of their times."""
        yield from self.ticks()
        long_ago = Workload(self.events, self.agents, self.windows, self.start - _LONG_MS, self.seed)
        for number, record in enumerate(long_ago.records(every)):
            yield record if number % 2 else record._replace(value=record.value[:-1])


def producer_to(bootstrap_servers: str, *, linger_ms: int = 50, queued: int = 1_000_000) -> Producer:
    """Return a producer that keeps at most *queued* records in memory, and the order of each partition's."""
    return Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "partitioner": "murmur2",  # the default partitioner of Java clients
            "enable.idempotence": True,  # so that a retry neither repeats nor reorders
            "linger.ms": linger_ms,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": queued,
            "log_level": 3,  # a new broker has the producer ask again for its id: no warning worth the table
        }
    )


def produce(producer: Producer, topic: str, value: bytes, key: bytes, partition: int = -1) -> None:
    """Send one record, to the partition of its key unless told otherwise; wait while the producer's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key, partition)
        except BufferError:
            producer.poll(0.1)
        else:
            return
