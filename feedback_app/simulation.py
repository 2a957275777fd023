"""Realistic chat traffic, seeded, and labelled with what must become of each record. Pure: no clock, no IO.

The labels are facts, not hopes. They follow from two rules of the worker (see ``feedback_app.core.watermark``):

* a partition's floor is at least *highest event time seen there - grace - retention*, so an event whose window ends at
  or below that is late whatever the worker does;
* the floor never passes *wall clock - grace - retention*, nor *end of the newest window - retention* when it is the
  wall clock that moves it. An event whose time is near the newest one sent to its partition (by less than the grace) is
  therefore counted, as long as it also is near the wall clock or the retention is no shorter than window + grace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, combinations
from typing import Any, NamedTuple

import orjson

from feedback_app.core.partitioning import partition_of
from feedback_app.core.windows import window_end


class Expectation(StrEnum):
    """What must become of a record."""

    COUNTED = "counted"
    LATE = "late"
    INVALID = "invalid"


class SimulatedRecord(NamedTuple):
    """A record to send, and its label."""

    key: bytes | None
    value: bytes | None
    expectation: Expectation


@dataclass(frozen=True, slots=True)
class Scenario:
    """What traffic to make up, and the worker's settings that decide on lateness.

    Attributes:
        agents: how many chat agents; the busiest gets far more feedback than the median (Zipf).
        late_share: of all records; the first ones of a partition can't be late yet, and are not.
        invalid_share: of all records.
        max_jitter_ms: how far event times step back at most; kept below the grace.
    """

    partitions: int
    window_ms: int
    grace_ms: int
    retention_ms: int
    seed: int = 0
    agents: int = 100
    users: int = 10_000
    late_share: float = 0.01
    invalid_share: float = 0.01
    max_jitter_ms: int = 2_000

    @property
    def jitter_ms(self) -> int:
        """How far event times really step back: strictly less than the grace allows."""
        return max(0, min(self.max_jitter_ms, self.grace_ms - 1))


#: Popularity falls with the rank to this power; 1.0 to 1.2 is what chat agents, shops and words show.
_ZIPF_EXPONENT = 1.1
_TAGS = ("accurate", "friendly", "fast", "slow", "wrong", "rude", "unclear", "helpful", "too-long", "off-topic")
_SOME_TAGS = tuple(b',"tags":' + orjson.dumps(tags) for length in (1, 2) for tags in combinations(_TAGS, length))
_COMMENTS = tuple(
    b',"comment":' + orjson.dumps(comment)
    for comment in (
        "Thanks, that solved it!",
        "I had to ask three times.",
        "Quick and to the point.",
        "The answer was for another product.",
        "Grüße aus Köln, alles bestens 👍",
        "No.",
    )
)
#: The end of the year 9999: in the future whatever the clocks and settings say.
_FAR_FUTURE_MS = 253_402_300_799_000
_DRAWN_AT_ONCE = 1_024


@dataclass(slots=True)
class _Agent:
    """A chat agent with a character of its own: the shares of positive ratings, and of positive and neutral ones."""

    key: bytes
    partition: int
    positive: float
    likely: float


def simulate(scenario: Scenario, times: Iterable[int]) -> Iterator[SimulatedRecord]:
    """Yield one record for each of *times*, the moments (ms) at which feedback is given, in order and not falling.

    The records must be sent in their order, keyed, with Kafka's default partitioner, to topics on which no later event
    time was sent before. The same scenario and times give the same records.
    """
    return _Traffic(scenario).records(times)


def cumulative_weights(agents: int) -> list[float]:
    """Return how likely each of *agents* is to be rated, the most popular first: summed up, as ``random.choices`` takes
    it."""
    return list(accumulate(rank**-_ZIPF_EXPONENT for rank in range(1, agents + 1)))


class _Traffic:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        # Not for secrets, and the same for everybody who uses the same seed.
        self._random = random.Random(scenario.seed)
        self._agents = [self._make_agent(number) for number in range(1, scenario.agents + 1)]
        self._weights = cumulative_weights(scenario.agents)
        #: The highest event time of a counted record sent to each partition.
        self._newest: dict[int, int] = {}

    def records(self, times: Iterable[int]) -> Iterator[SimulatedRecord]:
        chance, scenario = self._random.random, self._scenario
        late_below = scenario.invalid_share + scenario.late_share
        for number, (now, agent) in enumerate(zip(times, self._busy_agents(), strict=False)):
            kind = chance()
            if kind < scenario.invalid_share:
                key, value = self._invalid(number, agent, now)
                yield SimulatedRecord(key, value, Expectation.INVALID)
                continue
            expectation, at = Expectation.COUNTED, now - int(chance() * (scenario.jitter_ms + 1))
            if kind < late_below and (long_ago := self._late_time(agent.partition)) is not None:
                expectation, at = Expectation.LATE, long_ago
            else:
                at = max(at, 0)
                self._newest[agent.partition] = max(at, self._newest.get(agent.partition, 0))
            yield SimulatedRecord(agent.key, self._event(number, agent, now, at), expectation)

    def _make_agent(self, number: int) -> _Agent:
        agent_id = f"agent-{number:04d}"
        positive = self._random.uniform(0.45, 0.9)
        partition = partition_of(agent_id, self._scenario.partitions)
        return _Agent(agent_id.encode(), partition, positive, likely=positive + (1 - positive) / 3)

    def _busy_agents(self) -> Iterator[_Agent]:
        while True:
            yield from self._random.choices(self._agents, cum_weights=self._weights, k=_DRAWN_AT_ONCE)

    def _event(self, number: int, agent: _Agent, now: int, at: int) -> bytes:
        # Written out instead of encoded from a dict: measured, that is 2.5 times as fast, and the simulator shares a
        # small machine with what it is to load. Nothing in here needs escaping.
        chance = self._random.random
        mood = chance()
        if mood < agent.positive:
            rating, best = b"positive", 5
        elif mood < agent.likely:
            rating, best = b"neutral", 3
        else:
            rating, best = b"negative", 2
        event = b'{"feedbackId":"fb-%x-%x-%x","agentId":"%b","userId":"user-%06d","rating":"%b","timestamp":%d' % (
            *(self._scenario.seed, now, number),
            *(agent.key, int(chance() * self._scenario.users), rating, at),
        )
        extras = chance()
        if extras < 0.6:
            event += b',"messageId":"msg-%x","conversationId":"chat-%x"' % (number, number // 7)
            if extras < 0.4:
                event += b',"score":%d' % (best - (number & 1))
            if extras < 0.2:
                event += _SOME_TAGS[int(chance() * len(_SOME_TAGS))]
                if extras > 0.1:
                    event += _COMMENTS[int(chance() * len(_COMMENTS))]
        return event + b"}"

    def _late_time(self, partition: int) -> int | None:
        """Return a time whose window is final on *partition* by what was sent there; None when there is none yet."""
        newest = self._newest.get(partition)
        if newest is None:
            return None
        size = self._scenario.window_ms
        floor = newest - self._scenario.grace_ms - self._scenario.retention_ms
        at = floor - floor % size - 1 - int(self._random.random() * 5 * size)
        return at if at >= 0 and window_end(at, size) <= floor else None

    def _invalid(self, number: int, agent: _Agent, now: int) -> tuple[bytes | None, bytes | None]:
        event = self._event(number, agent, now, max(now, 0))
        value = self._random.choice(_SPOILERS)(orjson.loads(event))
        # Where it is counted does not matter, so some have no key at all.
        return (None if self._random.random() < 0.25 else agent.key), value


def _changed(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: orjson.dumps({**event, **fields})


def _without_agent(event: dict[str, Any]) -> bytes:
    del event["agentId"]
    return orjson.dumps(event)


#: The ways in which a record can be no feedback event.
_SPOILERS: tuple[Callable[[dict[str, Any]], bytes | None], ...] = (
    lambda event: orjson.dumps(event)[:-5],  # cut off: no JSON
    lambda event: b"\xff\xfe feedback",  # no text
    lambda event: b"[]",  # no object
    lambda event: b"",
    lambda event: None,
    _changed(rating="great"),
    _changed(score="5"),
    _changed(score=6),
    _changed(timestamp="yesterday"),
    _changed(timestamp=_FAR_FUTURE_MS),
    _without_agent,
)
