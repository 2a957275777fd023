"""What leaves the application, field by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import (
    aggregated_event,
    date,
    encode_event,
    item_document,
    to_json,
    window_document,
)
from feedback_app.core.events import LAST_MS, Event, Origin
from feedback_app.core.windows import Window
from feedback_app.models import decode

NOON_MS = 1_769_860_800_000  # 2026-01-31T12:00:00Z
WINDOW = Window("ann", NOON_MS, 300_000)
FULL = {
    "feedbackId": "f1",
    "agentId": "ann",
    "userId": "u1",
    "rating": "negative",
    "score": 1,
    "timestamp": "2026-01-31T13:00:00.250+01:00",
    "tags": ["$x"],
    "messageId": "m",
    "conversationId": "c",
    "comment": "no",
}


REQUIRED = {"feedbackId": "f", "agentId": "ann", "userId": "u", "rating": "positive"}


def aggregate(*events: dict[str, Any]) -> Aggregate:
    counted = Aggregate()
    for event in events:
        counted.add(msgspec.convert(REQUIRED | event, Event), event["timestamp"], 40)
    return counted


def test_a_windows_document_has_every_field_of_the_contract() -> None:
    counted = aggregate(
        {"timestamp": NOON_MS + 500, "rating": "negative", "score": 2, "comment": "no", "tags": ["slow", "bad"]},
        {"timestamp": NOON_MS + 250, "rating": "neutral", "score": 4, "tags": ["slow"]},
    )
    counted.revision = 3
    assert window_document(WINDOW, counted) == {
        "_id": f"ann|{NOON_MS}|300000",
        "agentId": "ann",
        "windowStart": datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
        "windowEnd": datetime(2026, 1, 31, 12, 5, tzinfo=UTC),
        "windowSize": 300_000,
        "count": 2,
        "positive": 0,
        "negative": 1,
        "neutral": 1,
        "scoreCount": 2,
        "scoreSum": 6,
        "scoreMin": 2,
        "scoreMax": 4,
        "comments": 1,
        "tags": [{"tag": "bad", "count": 1}, {"tag": "slow", "count": 2}],
        "otherTags": 0,
        "firstTimestamp": datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC),
        "lastTimestamp": datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC),
        "revision": 3,
        "checksum": 80,
    }


def test_without_a_score_there_is_no_lowest_and_no_highest() -> None:
    document = window_document(WINDOW, aggregate({"timestamp": NOON_MS}))
    assert (document["scoreCount"], document["scoreSum"]) == (0, 0)
    assert (document["scoreMin"], document["scoreMax"]) == (None, None)


@pytest.mark.parametrize("tag", ["$where", "a.b", "$", ".", "_id", "count", "ä", "\x00"])
def test_a_tag_never_becomes_a_field_name(tag: str) -> None:
    document = window_document(WINDOW, aggregate({"timestamp": NOON_MS, "tags": [tag, "other", tag]}))
    assert {"tag": tag, "count": 2} in document["tags"]
    assert all(set(one) == {"tag", "count"} for one in document["tags"])
    assert set(document) == set(window_document(WINDOW, aggregate({"timestamp": NOON_MS})))


def test_tags_stand_in_the_same_order_however_they_came() -> None:
    one = window_document(WINDOW, aggregate({"timestamp": NOON_MS, "tags": ["b", "a", "c"]}))
    other = window_document(WINDOW, aggregate({"timestamp": NOON_MS, "tags": ["c", "b", "a"]}))
    assert one == other
    assert [tag["tag"] for tag in one["tags"]] == ["a", "b", "c"]


def test_the_aggregated_event_is_the_document_and_an_id_of_its_own() -> None:
    counted = aggregate({"timestamp": NOON_MS})
    counted.revision = 2
    document = window_document(WINDOW, counted)
    assert aggregated_event(WINDOW, document) == {**document, "eventId": f"ann:{NOON_MS}:300000:2"}
    assert "eventId" not in document


def test_dates_are_rfc_3339_in_utc_on_the_wire() -> None:
    document = window_document(WINDOW, aggregate({"timestamp": NOON_MS + 7}))
    sent = orjson.loads(encode_event(aggregated_event(WINDOW, document)))
    assert sent["windowStart"] == "2026-01-31T12:00:00Z"
    assert sent["windowEnd"] == "2026-01-31T12:05:00Z"
    assert sent["firstTimestamp"] == "2026-01-31T12:00:00.007000Z"
    assert sent["checksum"] == 40
    assert sent["tags"] == []


def test_an_aggregated_event_is_encoded_as_any_other_answer() -> None:
    counted = aggregate({"timestamp": NOON_MS + 7, "tags": ['\u2028<&>"\\', "ü"]}, {"timestamp": LAST_MS, "score": 3})
    event = aggregated_event(WINDOW, window_document(WINDOW, counted))
    assert encode_event(event) == to_json(event)


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1, datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC)),
        (253_402_300_799_999, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (253_402_300_800_000, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (10**30, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_any_time_becomes_a_date_that_the_database_can_hold(ms: int, expected: datetime) -> None:
    assert date(ms) == expected
    assert date(ms).tzinfo is UTC


@hypothesis_settings(deadline=None, max_examples=500)
@given(st.integers(0, 253_402_300_799_999))
def test_a_date_is_exact_to_the_millisecond(ms: int) -> None:
    assert date(ms) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(milliseconds=ms)


def test_an_item_has_the_events_fields_and_its_origin() -> None:
    (event,) = decode([to_json(FULL | {"unknown": "dropped"})])
    assert isinstance(event, Event)
    assert item_document(event, Origin("feedback", 3, 17)) == {
        "_id": "f1",
        "agentId": "ann",
        "userId": "u1",
        "rating": "negative",
        "score": 1,
        "timestamp": datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC),
        "tags": ["$x"],
        "messageId": "m",
        "conversationId": "c",
        "comment": "no",
        "origin": {"topic": "feedback", "partition": 3, "offset": 17},
    }


def test_an_item_leaves_out_what_is_null() -> None:
    nulls = dict.fromkeys(("score", "comment", "tags", "messageId", "conversationId"))
    (event,) = decode([to_json(FULL | nulls)])
    assert isinstance(event, Event)
    assert set(item_document(event, Origin("feedback", 3, 17))) == {
        "_id",
        "agentId",
        "userId",
        "rating",
        "timestamp",
        "origin",
    }
