"""Pages of closed windows, and what a ranking asks of the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from feedback_app.core.documents import Document, date
from feedback_app.sinks.archive import newest_windows, page, ranking

_START = datetime(2026, 11, 24, tzinfo=UTC)


def stored(*starts: int) -> list[Document]:
    """Return documents by the numbers of their windows, newest first."""
    return [
        {"_id": f"{start}-{number}", "windowStart": _START + timedelta(minutes=start), "secret": "not ours"}
        for number, start in enumerate(starts)
    ]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 10))
def test_page_by_page_each_window_comes_once(starts: list[int], limit: int) -> None:
    documents = stored(*sorted(starts, reverse=True))
    ties = max((starts.count(start) for start in starts), default=0)
    found: list[Any] = []
    before = None
    for _ in range(len(starts) + 1):
        left = [each for each in documents if before is None or each["windowStart"] < before]
        part = page(left[: limit + ties], limit)
        assert len(part.documents) <= max(limit, ties)
        found += [each["_id"] for each in part.documents]
        before = part.next
        if before is None:
            break
    assert found == [each["_id"] for each in documents]


def test_a_page_has_the_fields_that_a_window_has() -> None:
    (document,) = page(stored(1), 1).documents
    assert "secret" not in document
    assert document["closedAt"] is None


def test_no_page_follows_the_last_one() -> None:
    assert page(stored(3, 2), 2).next is None
    assert page(stored(3, 2, 1), 2).next == _START + timedelta(minutes=2)
    assert page([], 2) == ([], None)


def test_the_newest_windows_are_those_that_end_at_the_watermark() -> None:
    assert newest_windows(date(1_000_300), 1_000, 3) == (date(997_000), date(1_000_000))
    assert newest_windows(date(1_000_000), 1_000, 3) == (date(997_000), date(1_000_000))
    assert newest_windows(date(1_500), 1_000, 3) == (date(0), date(1_000))


def test_a_ranking_is_bounded_and_begins_with_what_has_an_index() -> None:
    stages = ranking("negative", date(1_000), date(4_000), least=10, skip=20, limit=21)
    assert stages[0] == {"$match": {"windowEnd": {"$gt": date(1_000), "$lte": date(4_000)}}}
    assert stages[1].keys() == {"$limit"}
    assert stages[-2:] == [{"$skip": 20}, {"$limit": 21}]
