"""The overview of the cluster, out of what each worker says of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from feedback_app.figures import Counters, Span
from feedback_app.web.overview import Scene, overview
from feedback_app.web.shares import PartitionShare, Share, SinkShare, reason

_ONE, _OTHER = "http://one:1", "http://other:2"
_NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
_SCENE = Scene({"mode": "hybrid"}, ("feedback", "feedback-repartition"), {0: _ONE, 1: _OTHER, 2: None})
_UP = SinkShare(up=True, reason="")


def share(*partitions: PartitionShare, **changes: Any) -> Share:
    values: dict[str, Any] = {
        "state": "ready",
        "reasons": [],
        "version": "1.2.3",
        "started_at": _NOW,
        "partitions": list(partitions),
        "totals": Counters(),
        "ten_seconds": Span(10.0, Counters()),
        "minute": Span(60.0, Counters()),
        "sink": _UP,
    }
    return Share(**(values | changes))


def ready(number: int, **changes: Any) -> PartitionShare:
    values: dict[str, Any] = {"lag": 3, "open_windows": 5, "due_windows": 2, "cached": 4, "watermark": _NOW}
    return PartitionShare(number, "ready", **(values | changes))


def shown(one: Share | None, other: Share | None, scene: Scene = _SCENE) -> dict[str, Any]:
    return overview(scene, _NOW, {_ONE: one, _OTHER: other})


def test_each_partition_is_told_of_by_its_owner() -> None:
    offsets = {"feedback": 7, "<script>": 1}
    answer = shown(share(ready(0, offsets=offsets), ready(1, lag=99)), share(PartitionShare(1, "restoring")))
    assert [(row["partition"], row["owner"], row["state"]) for row in answer["partitions"]] == [
        (0, _ONE, "ready"),
        (1, _OTHER, "restoring"),
        (2, None, "unknown"),
    ]
    assert answer["partitions"][0] == {
        "partition": 0,
        "owner": _ONE,
        "state": "ready",
        "watermark": _NOW,
        "floor": None,
        "silentSince": None,
        "lag": 3,
        "openWindows": 5,
        "dueWindows": 2,
        "offsets": {"feedback": 7},
    }
    assert answer["partitions"][2].keys() == answer["partitions"][0].keys()
    assert [(row["url"], row["partitions"]) for row in answer["workers"]] == [(_ONE, [0]), (_OTHER, [1])]
    assert (answer["mode"], answer["time"], answer["unanswered"]) == ("hybrid", _NOW, [])


def test_of_a_worker_that_does_not_answer_nothing_is_known() -> None:
    answer = shown(share(ready(0)), None)
    assert answer["unanswered"] == [_OTHER]
    assert answer["partitions"][1] | {"offsets": None} == dict.fromkeys(answer["partitions"][1]) | {
        "partition": 1,
        "owner": _OTHER,
        "state": "unknown",
    }
    assert answer["workers"][1] == {
        "url": _OTHER,
        "state": "unknown",
        "reasons": ["it does not answer"],
        "version": None,
        "partitions": [1],
        "startedAt": None,
    }
    assert answer["totals"]["lag"] == 3


def test_totals_figures_and_rates_are_those_of_all() -> None:
    lately = Counters(counted=80, late=10, dead_letters=5, forwarded=5, windows_closed=3, windows_amended=2)
    minute = Counters(flushes=6, flushed=60, operations=120, aggregated_events=30, batches=10, batch_age_s=50.0)
    one = share(
        ready(0), totals=lately, ten_seconds=Span(10.0, lately), minute=Span(60.0, minute), sink=SinkShare(None, "")
    )
    other = share(ready(1), totals=lately, minute=Span(30.0, Counters(batches=30, close_delay_s=20.0, flushes=3)))
    answer = shown(one, other)
    assert answer["totals"] == {
        "records": 200,
        "counted": 160,
        "late": 20,
        "deadLetters": 10,
        "forwarded": 10,
        "windowsClosed": 10,
        "windowsAmended": 4,
        "aggregatedEvents": 0,
        "lag": 6,
        "openWindows": 10,
        "dueWindows": 4,
    }
    assert answer["rates"] == {"records": 10, "counted": 8, "late": 1, "deadLetters": 0.5, "windowsClosed": 0.5}
    assert answer["figures"] == {
        "flushRate": pytest.approx(0.2),
        "batchSize": pytest.approx(60 / 9, abs=0.001),
        "batchesInMemory": 8,
        "mongodbOperationsPerSecond": 2,
        "eventsPublishedPerSecond": 0.5,
        "batchAgeSeconds": 1.25,
    }
    assert answer["closeDelaySeconds"] == 0.5


def test_where_nothing_was_closed_there_is_no_mean() -> None:
    answer = shown(share(), share())
    assert answer["figures"]["batchSize"] is answer["figures"]["batchAgeSeconds"] is answer["closeDelaySeconds"] is None


@pytest.mark.parametrize(
    ("states", "up", "why"),
    [
        ([True, None], True, ""),
        ([None, None], None, ""),
        ([True, False], False, "gone"),
        ([None, False], False, "gone"),
    ],
)
def test_the_sink_is_down_as_soon_as_one_worker_says_so(states: list[bool | None], up: bool | None, why: str) -> None:
    totals = Counters(failed_commands=2)
    sinks = [SinkShare(state, "gone" if state is False else "") for state in states]
    one, other = (share(sink=sink, totals=totals) for sink in sinks)
    answer = shown(one, other)
    assert answer["sink"] == {"name": "mongodb", "up": up, "reason": why, "failedCommands": 4}


def test_a_share_survives_the_way_and_reasons_are_cut() -> None:
    whole = share(ready(0, offsets={"feedback": 1}), reasons=[reason("x" * 1_000)])
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Share) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"state": "<script>"},
        {"state": "unknown"},
        {"reasons": ["x" * 301]},
        {"reasons": "x"},
        {"startedAt": "<script>"},
        {"startedAt": "2026-11-24T12:00:00"},
        {"partitions": [{"partition": "0", "state": "ready"}]},
        {"partitions": [{"partition": 0, "state": "ready", "lag": -1}]},
        {"partitions": [{"partition": 0, "state": "ready", "offsets": {"feedback": "<script>"}}]},
        {"totals": {"counted": -1}},
        {"minute": {"seconds": 0, "done": {}}},
        {"sink": {"up": 1, "reason": ""}},
    ],
)
def test_what_no_worker_says_is_no_share(change: dict[str, Any]) -> None:
    said = msgspec.json.decode(msgspec.json.encode(share())) | change
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(msgspec.json.encode(said), type=Share)
