"""What a window counts, and the form that it is stored in."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.aggregate import MAX_TAGS, Aggregate, checksum_seed, origin_checksum, summary_of
from feedback_app.core.events import LAST_MS, Event

Counted = tuple[Event, int]

_SEED = checksum_seed("feedback", 3)


def event(timestamp: int = 1_000, **fields: Any) -> Event:
    required = {"feedbackId": "f", "agentId": "a", "userId": "u", "rating": "positive", "timestamp": timestamp}
    return msgspec.convert(required | fields, Event)


def aggregate_of(counted: list[Counted]) -> Aggregate:
    aggregate = Aggregate()
    for one, checksum in counted:
        aggregate.add(one, one.timestamp, checksum)
    return aggregate


def content(aggregate: Aggregate) -> dict[str, Any]:
    return {name: getattr(aggregate, name) for name in ("count", *Aggregate.__slots__)}


def counted_events(tags: int) -> st.SearchStrategy[Counted]:
    """Any event, with one of so many distinct tags, and the checksum of some origin."""
    optional: dict[str, st.SearchStrategy[Any]] = {
        "score": st.none() | st.integers(1, 5),
        "comment": st.none() | st.text(max_size=20),
        "tags": st.none() | st.lists(st.sampled_from([f"tag-{number}" for number in range(tags)]), max_size=8),
        "messageId": st.text(max_size=5),
    }
    fields: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "rating": st.sampled_from(["positive", "negative", "neutral"]),
            "timestamp": st.integers(0, LAST_MS),
        },
        optional=optional,
    )
    return st.tuples(
        fields.map(lambda given: event(**given)),
        st.integers(0, 10**6).map(lambda offset: origin_checksum(_SEED, offset)),
    )


def test_every_field_is_counted() -> None:
    counted = aggregate_of(
        [
            (event(2_000, rating="negative", score=2, comment="no", tags=["slow", "wrong"]), 5),
            (event(1_000, rating="positive", score=5, tags=["fast", "slow"]), 6),
            (event(3_000, rating="neutral", score=3, comment="so so"), 7),
            (event(2_500, rating="negative"), 8),
        ]
    )
    assert content(counted) == {
        "revision": 0,
        "count": 4,
        "positive": 1,
        "negative": 2,
        "neutral": 1,
        "score_count": 3,
        "score_sum": 10,
        "score_min": 2,
        "score_max": 5,
        "comments": 2,
        "tags": {"slow": 2, "wrong": 1, "fast": 1},
        "other_tags": 0,
        "first": 1_000,
        "last": 3_000,
        "checksum": 26,
    }


def test_null_and_empty_count_as_absent() -> None:
    bare = aggregate_of([(event(), 1)])
    nulls = aggregate_of([(event(score=None, comment=None, tags=None, messageId=None), 1)])
    empties = aggregate_of([(event(comment="", tags=[]), 1)])
    assert content(bare) == content(nulls) == content(empties)
    assert bare.tags is None


def test_a_first_event_at_the_epoch_is_the_first() -> None:
    assert aggregate_of([(event(0), 1), (event(50), 1)]).first == 0
    assert aggregate_of([(event(50), 1), (event(0), 1)]).first == 0


@hypothesis_settings(deadline=None)
@given(st.lists(counted_events(tags=40), max_size=30), st.integers(0, 2**32 - 1))
def test_the_stored_form_gives_back_every_field(counted: list[Counted], revision: int) -> None:
    aggregate = aggregate_of(counted)
    aggregate.revision = revision
    decoded = Aggregate.decode(aggregate.encode())
    assert content(decoded) == content(aggregate)
    assert decoded.encode() == aggregate.encode()
    assert summary_of(aggregate.encode()) == (revision, aggregate.count, aggregate.first)


@hypothesis_settings(deadline=None)
@given(st.lists(counted_events(tags=MAX_TAGS), max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(counted: list[Counted], shuffler: random.Random) -> None:
    shuffled = counted.copy()
    shuffler.shuffle(shuffled)
    assert content(aggregate_of(shuffled)) == content(aggregate_of(counted))


@hypothesis_settings(deadline=None)
@given(st.lists(counted_events(tags=2 * MAX_TAGS), max_size=60), st.randoms(use_true_random=False))
def test_with_too_many_tags_only_which_of_them_are_named_depends_on_the_order(
    counted: list[Counted], shuffler: random.Random
) -> None:
    shuffled = counted.copy()
    shuffler.shuffle(shuffled)
    one, other = aggregate_of(counted), aggregate_of(shuffled)
    given = sum(len(event.tags or ()) for event, _ in counted)
    for aggregate in (one, other):
        assert sum((aggregate.tags or {}).values()) + aggregate.other_tags == given
        assert len(aggregate.tags or {}) <= MAX_TAGS
    by_tags = {"tags", "other_tags"}
    assert {name: value for name, value in content(one).items() if name not in by_tags} == {
        name: value for name, value in content(other).items() if name not in by_tags
    }


def test_tags_beyond_the_limit_are_counted_together() -> None:
    aggregate = aggregate_of([(event(tags=[f"tag-{number}"]), 1) for number in range(MAX_TAGS + 3)])
    assert aggregate.tags == {f"tag-{number}": 1 for number in range(MAX_TAGS)}
    assert aggregate.other_tags == 3
    aggregate.add(event(tags=["tag-0", "new"]), 1_000, 1)
    assert aggregate.tags["tag-0"] == 2, "a tag that has its own count keeps it"
    assert aggregate.other_tags == 4


@hypothesis_settings(deadline=None)
@given(st.sets(st.integers(0, 2**40), min_size=1, max_size=50), st.data())
def test_the_checksum_tells_a_record_that_is_missing_or_there_twice(offsets: set[int], data: st.DataObject) -> None:
    checksums = [origin_checksum(_SEED, offset) for offset in offsets]
    whole = aggregate_of([(event(), checksum) for checksum in checksums]).checksum
    one = data.draw(st.sampled_from(checksums))
    without = checksums.copy()
    without.remove(one)
    assert aggregate_of([(event(), checksum) for checksum in without]).checksum != whole
    assert aggregate_of([(event(), checksum) for checksum in [*checksums, one]]).checksum != whole


def test_the_checksum_tells_records_of_other_partitions_and_topics_apart() -> None:
    seeds = {checksum_seed(topic, partition) for topic in ("feedback", "other") for partition in range(8)}
    assert len(seeds) == 16
    assert len({origin_checksum(seed, offset) for seed in seeds for offset in range(100)}) == 1_600


def test_the_checksum_of_two_thousand_million_events_still_fits_the_databases_integers() -> None:
    aggregate = Aggregate()
    aggregate.checksum = (2**31 - 1) * (2**32 - 1)
    aggregate.add(event(), 1_000, 2**32 - 1)
    assert aggregate.checksum < 2**63
    assert Aggregate.decode(aggregate.encode()).checksum == 2**31 * (2**32 - 1)


@hypothesis_settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_a_records_share_of_the_checksum_has_32_bits(offset: int) -> None:
    assert 0 <= origin_checksum(_SEED, offset) < 2**32


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_format_that_is_not_known_is_refused(version: int) -> None:
    stored = aggregate_of([(event(), 1)]).encode()
    with pytest.raises(ValueError, match=f"state format {version} is unknown; this version reads format 1"):
        Aggregate.decode(bytes([version]) + stored[1:])


def test_equal_is_what_counts_the_same() -> None:
    one, other = aggregate_of([(event(), 1)]), aggregate_of([(event(), 1)])
    assert one == other
    other.revision = 1
    assert one != other
    assert one != "an aggregate"
