"""The simulator's labels are facts: any worker that follows the rules decides as they say.

A worker, reduced to one partition's watermark and floor, takes the records in the order in which they were sent. The
wall clock may take over at any moment between two of them:

    live traffic       the clock shows the moment of the next event, at most
    traffic that is    the clock may show anything, but the retention is no shorter than window + grace
      of the past
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from feedback_app.core.events import Invalid
from feedback_app.core.partitioning import partition_of
from feedback_app.core.windows import window_end
from feedback_app.models import decode
from feedback_app.simulation import Expectation, Scenario, SimulatedRecord, simulate

START = 1_769_860_800_000
MAX_FUTURE_MS = 300_000
FAR_FUTURE_MS = START + 10 * 365 * 24 * 3600 * 1000


@dataclass
class Partition:
    """What a worker knows of a partition, in plain Python."""

    scenario: Scenario
    watermark: int = -1
    floor: int = -1
    open_ends: set[int] = field(default_factory=set)

    def judge(self, timestamp: int) -> Expectation:
        end = window_end(timestamp, self.scenario.window_ms)
        if end <= self.floor:
            return Expectation.LATE
        self.open_ends.add(end)
        self._move(timestamp - self.scenario.grace_ms)
        return Expectation.COUNTED

    def fall_silent(self, now: int) -> None:
        if self.open_ends:
            self._move(min(now - self.scenario.grace_ms, max(self.open_ends)))

    def close_due(self) -> None:
        self.open_ends = {end for end in self.open_ends if end > self.watermark}

    def _move(self, watermark: int) -> None:
        self.watermark = max(self.watermark, watermark)
        self.floor = max(self.floor, self.watermark - self.scenario.retention_ms)


scenarios = st.builds(
    Scenario,
    partitions=st.integers(1, 4),
    window_ms=st.integers(1, 10_000),
    grace_ms=st.integers(0, 3_000),
    retention_ms=st.integers(0, 20_000),
    seed=st.integers(0, 1_000),
    agents=st.integers(1, 6),
    late_share=st.floats(0, 0.5),
    invalid_share=st.floats(0, 0.3),
)
steps = st.lists(st.integers(0, 4_000), min_size=1, max_size=60)
#: Before which records the wall clock takes over, and whether due windows are closed then.
silences = st.dictionaries(st.integers(0, 59), st.booleans(), max_size=20)


def judged(scenario: Scenario, partitions: dict[int, Partition], record: SimulatedRecord) -> Expectation:
    (event,) = decode([record.value])
    if isinstance(event, Invalid) or event.timestamp > FAR_FUTURE_MS + MAX_FUTURE_MS:
        return Expectation.INVALID
    home = partition_of(event.agent_id, scenario.partitions)
    return partitions[home].judge(event.timestamp)


def replay(scenario: Scenario, moments: list[int], clock: list[int], silences: dict[int, bool]) -> None:
    partitions = {number: Partition(scenario) for number in range(scenario.partitions)}
    for number, (record, now) in enumerate(zip(simulate(scenario, moments), clock, strict=True)):
        if number in silences:
            for partition in partitions.values():
                partition.fall_silent(now)
                if silences[number]:
                    partition.close_due()
        assert judged(scenario, partitions, record) is record.expectation


@given(scenarios, steps, silences)
def test_live_traffic_is_judged_as_labelled(scenario: Scenario, steps: list[int], silences: dict[int, bool]) -> None:
    moments = list(accumulate(steps, initial=START))
    replay(scenario, moments, moments, silences)


@given(scenarios, steps, silences)
def test_traffic_of_the_past_is_judged_as_labelled(
    scenario: Scenario, steps: list[int], silences: dict[int, bool]
) -> None:
    lenient = Scenario(
        partitions=scenario.partitions,
        window_ms=scenario.window_ms,
        grace_ms=scenario.grace_ms,
        retention_ms=scenario.retention_ms + scenario.window_ms + scenario.grace_ms,
        seed=scenario.seed,
        agents=scenario.agents,
        late_share=scenario.late_share,
        invalid_share=scenario.invalid_share,
    )
    moments = list(accumulate(steps, initial=START))
    replay(lenient, moments, [FAR_FUTURE_MS] * len(moments), silences)
