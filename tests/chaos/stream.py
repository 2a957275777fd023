"""What the suite sends: labelled traffic with everything that real producers do to a topic.

On top of the simulator's (skewed agents, disorder within the grace, events that are late for good, invalid records):

* some events are sent twice, as a producer without idempotence does: each counts;
* some stand on another partition than their agent's, with its key or without one;
* some belong to a window that has closed, and to one that can still be amended.

The labels are facts as long as no partition is more than ``retention - 15 s`` behind another, see ``simulation``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

import orjson

from feedback_app.core.partitioning import partition_of
from feedback_app.models import FeedbackEvent
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher, encoded
from feedback_app.settings import Settings
from feedback_app.simulation import Expectation, simulate
from feedback_app.topics import Topics
from feedback_app.traffic import scenario

#: Traffic comes in bursts, each of them a transaction a partition: the fewer, the more scenarios run at a time.
_SLICE_S: Final = 0.3
_PAUSE_S: Final = 0.05
#: How far an amending event steps back, beyond the grace.
_AMENDS_MS: Final = 10_000
#: A broker that is killed may need a while on a busy machine; what is given up would be lost by the suite, not by us.
_PATIENT_S: Final = 600.0
#: So many records all stand where they belong: each partition has seen something before a late event comes.
_IN_PLACE: Final = 300
_NO_EVENT: Final = b"no event"


class Mix(NamedTuple):
    """What the traffic is made of: shares of all records."""

    late: float = 0.01
    invalid: float = 0.01
    twice: float = 0.02
    misplaced: float = 0.04
    amending: float = 0.01


@dataclass(slots=True)
class Expected:
    """What has to become of what was sent.

    Attributes:
        counted: events by agent and event time.
        late: records by value; dead letters as well.
        items: the feedbackIds of all valid events.
    """

    records: int = 0
    counted: Counter[tuple[str, int]] = field(default_factory=Counter)
    late: Counter[bytes | None] = field(default_factory=Counter)
    invalid: Counter[bytes | None] = field(default_factory=Counter)
    items: set[str] = field(default_factory=set)


class Stream:
    """Traffic that goes on in the background until it is told to end."""

    def __init__(self, settings: Settings, seed: int, *, pace: float, agents: int, mix: Mix) -> None:
        self.expected = Expected()
        self._settings = settings
        self._seed = seed
        self._pace = pace
        self._agents = agents
        self._mix = mix
        self._random = random.Random(seed)
        self._ending = False
        #: Nothing is sent for now.
        self.paused = False
        #: Partitions that get nothing any more.
        self.silent: set[int] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._sent: Future[None] | None = None

    def begin(self) -> None:
        ensure_topics(self._settings, Topics.of(self._settings).specs())
        self._sent = self._thread.submit(self._send)

    def end(self) -> None:
        """Send nothing any more, and wait until everything is delivered.

        Raises:
            PublishError: something was not.
        """
        self._ending = True
        if self._sent is not None:
            self._sent.result()
        self._thread.shutdown()

    @property
    def sent(self) -> int:
        """How many records were sent so far."""
        return self.expected.records

    def move_on(self) -> None:
        """While paused: send one event of now to each partition."""
        with FeedbackPublisher(self._settings) as publisher:
            for home in range(self._settings.partitions):
                names = (f"agent-of-{home}-{number}" for number in count())
                agent_id = next(name for name in names if partition_of(name, self._settings.partitions) == home)
                event = FeedbackEvent(
                    feedbackId=f"feedback-{agent_id}",
                    userId="user",
                    agentId=agent_id,
                    rating="positive",
                    timestamp=time.time_ns() // 1_000_000,
                )
                self._publish(publisher, encoded(event), late=False)

    def knock(self) -> None:
        """While paused: send one invalid record to each partition, so that its owner has a transaction to make."""
        with FeedbackPublisher(self._settings) as publisher:
            for home in range(self._settings.partitions):
                publisher.publish_bytes(None, _NO_EVENT, home)
                self.expected.invalid[_NO_EVENT] += 1
                self.expected.records += 1

    def _send(self) -> None:
        plan = scenario(
            self._settings,
            seed=self._seed,
            agents=self._agents,
            late_share=self._mix.late,
            invalid_share=self._mix.invalid,
        )
        with FeedbackPublisher(self._settings, delivery_timeout_s=_PATIENT_S) as publisher:
            for record in simulate(plan, self._moments()):
                if record.expectation is Expectation.INVALID:
                    if self.silent:
                        continue
                    publisher.publish_bytes(record.key, record.value)
                    self.expected.invalid[record.value] += 1
                    self.expected.records += 1
                else:
                    self._publish(publisher, record.value or b"", late=record.expectation is Expectation.LATE)

    def _publish(self, publisher: FeedbackPublisher, value: bytes, *, late: bool) -> None:
        event, chance, mix = orjson.loads(value), self._random.random, self._mix
        agent_id: str = event["agentId"]
        home = partition_of(agent_id, self._settings.partitions)
        if home in self.silent:
            return
        if late:  # by more than the simulator knows: those that make it late may have been changed below
            event["timestamp"] -= self._settings.grace_ms + _AMENDS_MS
        elif chance() < mix.amending:
            event["timestamp"] -= self._settings.grace_ms + int(chance() * _AMENDS_MS)
        value = orjson.dumps(event)
        key: bytes | None = agent_id.encode()
        partition: int | None = None
        # A late event that goes round by another partition may come before those that make it late, and so it may if
        # they do.
        if not late and self.expected.records > _IN_PLACE and chance() < mix.misplaced:
            partition = self._random.choice([*({*range(self._settings.partitions)} - self.silent)])
            key = key if chance() < 0.5 else None
        for _ in range(2 if chance() < mix.twice else 1):
            publisher.publish_bytes(key, value, partition)
            self.expected.records += 1
            if late:
                self.expected.late[value] += 1
            else:
                self.expected.counted[agent_id, event["timestamp"]] += 1
            self.expected.items.add(event["feedbackId"])

    def _moments(self) -> Iterator[int]:
        started, number = time.monotonic(), 0
        while not self._ending:
            while self.paused and not self._ending:
                time.sleep(_PAUSE_S)
                started += _PAUSE_S
            ahead = number / self._pace - (time.monotonic() - started)
            if ahead > _SLICE_S:
                time.sleep(ahead)
            yield time.time_ns() // 1_000_000
            number += 1
