"""Simulated traffic: realistic, repeatable, and of all the kinds that it promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from feedback_app.core.events import Event, Invalid
from feedback_app.core.partitioning import partition_of
from feedback_app.core.windows import window_end
from feedback_app.models import decode
from feedback_app.simulation import Expectation, Scenario, SimulatedRecord, simulate

START = 1_769_860_800_000
SCENARIO = Scenario(partitions=8, window_ms=5_000, grace_ms=1_000, retention_ms=10_000, agents=200, seed=7)
THIRTY_DAYS_MS = 30 * 24 * 3600 * 1000


def minutes_of_traffic(scenario: Scenario = SCENARIO, events: int = 20_000) -> list[SimulatedRecord]:
    return list(simulate(scenario, (START + number * 120_000 // events for number in range(events))))


def labelled(records: Iterable[SimulatedRecord], expectation: Expectation) -> list[Event]:
    values = [record.value for record in records if record.expectation is expectation]
    events = decode(values)
    return [event for event in events if not isinstance(event, Invalid)]


def test_the_same_seed_makes_up_the_same_traffic() -> None:
    assert minutes_of_traffic(events=500) == minutes_of_traffic(events=500)
    assert minutes_of_traffic(events=500) != minutes_of_traffic(replace(SCENARIO, seed=8), events=500)


def test_shares_are_as_asked_for() -> None:
    records = minutes_of_traffic(replace(SCENARIO, late_share=0.05, invalid_share=0.1))
    found = Counter(record.expectation for record in records)
    assert found[Expectation.INVALID] == pytest.approx(2_000, rel=0.15)
    # Less than their share: nothing can be late before a partition's time has moved on.
    assert 700 < found[Expectation.LATE] <= 1_150


def test_shares_of_nothing_are_nothing() -> None:
    records = minutes_of_traffic(replace(SCENARIO, late_share=0.0, invalid_share=0.0), events=2_000)
    assert {record.expectation for record in records} == {Expectation.COUNTED}


def test_every_event_that_is_no_invalid_one_is_valid_and_keyed_by_its_agent() -> None:
    records = [record for record in minutes_of_traffic() if record.expectation is not Expectation.INVALID]
    for record, event in zip(records, decode([record.value for record in records]), strict=True):
        assert not isinstance(event, Invalid)
        assert event.agent_id.encode() == record.key


def test_every_invalid_record_is_invalid_or_far_in_the_future() -> None:
    values = [record.value for record in minutes_of_traffic() if record.expectation is Expectation.INVALID]
    errors = set()
    for event in decode(values):
        if isinstance(event, Invalid):
            errors.add(event.error.partition(":")[0])
        else:
            assert event.timestamp > START + 365 * 24 * 3600 * 1000
            errors.add("future")
    assert {"empty", "agentId", "rating", "score", "timestamp", "future"} <= errors
    assert any(error.startswith("Invalid JSON") for error in errors)
    keys = {record.key is None for record in minutes_of_traffic() if record.expectation is Expectation.INVALID}
    assert keys == {True, False}


def test_a_few_agents_get_most_of_the_feedback_and_ids_are_unique() -> None:
    events = labelled(minutes_of_traffic(), Expectation.COUNTED)
    by_agent = Counter(event.agent_id for event in events).most_common()
    assert by_agent[0][0] == "agent-0001"
    assert by_agent[0][1] > 20 * by_agent[len(by_agent) // 2][1]
    assert len({event.feedback_id for event in events}) == len(events)


def test_optional_fields_come_with_some_events() -> None:
    events = labelled(minutes_of_traffic(), Expectation.COUNTED)
    for name, least, most in (
        ("score", 0.3, 0.5),
        ("tags", 0.1, 0.3),
        ("comment", 0.05, 0.2),
        ("message_id", 0.5, 0.7),
    ):
        assert least < sum(getattr(event, name) is not None for event in events) / len(events) < most
    assert {event.rating for event in events} == {"positive", "neutral", "negative"}


def test_disorder_stays_below_the_grace() -> None:
    moments = [START + number * 10 for number in range(5_000)]
    records = list(simulate(replace(SCENARIO, late_share=0.0, invalid_share=0.0), moments))
    events = labelled(records, Expectation.COUNTED)
    behind = [now - event.timestamp for now, event in zip(moments, events, strict=True)]
    assert min(behind) >= 0
    assert 500 < max(behind) < SCENARIO.grace_ms
    assert replace(SCENARIO, grace_ms=0).jitter_ms == 0


@pytest.mark.parametrize("retention_ms", [0, 10_000, THIRTY_DAYS_MS])
def test_late_events_are_below_the_floor_that_was_sent_before(retention_ms: int) -> None:
    scenario = replace(SCENARIO, retention_ms=retention_ms, late_share=0.1)
    newest: dict[int, int] = {}
    late = 0
    for record in minutes_of_traffic(scenario, events=5_000):
        (event,) = decode([record.value])
        if record.expectation is Expectation.INVALID or isinstance(event, Invalid):
            continue
        partition = partition_of(event.agent_id, scenario.partitions)
        floor = newest.get(partition, -1) - scenario.grace_ms - retention_ms
        if record.expectation is Expectation.LATE:
            late += 1
            assert window_end(event.timestamp, scenario.window_ms) <= floor
        else:
            newest[partition] = max(event.timestamp, newest.get(partition, 0))
    assert late > 300


def test_nothing_is_late_at_the_beginning_of_time() -> None:
    records = list(simulate(replace(SCENARIO, late_share=1.0, invalid_share=0.0), range(0, 8_000, 10)))
    assert {record.expectation for record in records} == {Expectation.COUNTED}
    assert min(event.timestamp for event in labelled(records, Expectation.COUNTED)) >= 0
