"""Pages of dead letters, newest first, whatever stands between them on the topic."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_app.core.events import Headers, Origin
from feedback_app.core.headers import Header, Mark, mark_headers, origin_headers
from feedback_app.deadletters import browsing, cursor
from feedback_app.deadletters.browsing import Browser, NoLetter, Range, TookTooLong
from feedback_app.deadletters.marks import MOST_MARKS, KnownMarks

_NOW = 1_795_000_000_000


class Record:
    """A record of the topic, as confluent-kafka has it."""

    def __init__(self, partition: int, offset: int, at: int, value: bytes | None, headers: Headers) -> None:
        self._place = partition, offset, at
        self._value = value
        self._headers = headers

    def topic(self) -> str:
        return "dead"

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]

    def timestamp(self) -> tuple[int, int]:
        return 1, self._place[2]

    def key(self) -> bytes:
        return b"\xff\x00"

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers:
        return self._headers

    def set_headers(self, headers: Any, /) -> None:
        self._headers = headers


class Topic:
    """Implements ``browsing.Records``. Offsets without a record are markers of transactions, say."""

    def __init__(self, partitions: int) -> None:
        self.records: dict[int, dict[int, Record]] = {number: {} for number in range(partitions)}
        self.ends = dict.fromkeys(range(partitions), 0)
        self.firsts = dict.fromkeys(range(partitions), 0)
        self.clock = 0.0
        self.seconds_each = 0.0
        self.read_so_far = 0

    def letter(self, partition: int, error: str = "score: too much", value: bytes | None = b"{}", **more: Any) -> int:
        headers = [(str(Header.ERROR), error.encode()), *origin_headers(Origin("in", 1, 7)), *more.get("headers", ())]
        return self._append(partition, value, headers)

    def mark(self, partition: int, letter: int) -> int:
        return self._append(partition, None, list(mark_headers(Mark(letter, Origin("in", 0, 1)))))

    def gap(self, partition: int, offsets: int = 1) -> None:
        self.ends[partition] += offsets

    def _append(self, partition: int, value: bytes | None, headers: Headers) -> int:
        offset = self.ends[partition]
        at = _NOW + sum(map(len, self.records.values()))
        self.records[partition][offset] = Record(partition, offset, at, value, headers)
        self.ends[partition] += 1
        return offset

    def bounds(self) -> Mapping[int, Range]:
        return {number: Range(self.firsts[number], end) for number, end in self.ends.items()}

    def read(self, ranges: Mapping[int, Range], deadline: float) -> Iterator[Record]:
        for number, range_ in ranges.items():
            for offset in range(*range_):
                record = self.records[number].get(offset)
                if record is None or offset < self.firsts[number]:
                    continue
                self.clock += self.seconds_each
                if self.clock > deadline:
                    raise TookTooLong
                self.read_so_far += 1
                yield record

    def browser(self) -> Browser:
        return Browser(self, lambda: self.clock)


def names(letters: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(letter["partition"], letter["offset"]) for letter in letters]


def all_pages(browser: Browser, limit: int, error: str | None = None) -> list[dict[str, Any]]:
    found, before = [], None
    for _ in range(10_000):
        letters, following = browser.page(limit, before, error)
        assert len(letters) <= limit
        found += letters
        if following is None:
            return found
        before = cursor.decode(following)
    raise AssertionError("there is no last page")


_STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["letter", "other", "mark", "gap", "gaps"])), max_size=80
)


@settings(deadline=None)
@given(_STEPS, st.integers(1, 7), st.sampled_from([None, "score", "rating"]), st.integers(0, 3))
def test_page_by_page_each_letter_comes_once_newest_first(
    steps: list[tuple[int, str]], limit: int, error: str | None, first: int
) -> None:
    topic = Topic(3)
    wanted: dict[tuple[int, int], int] = {}
    replayed: set[tuple[int, int]] = set()
    for partition, kind in steps:
        if kind in {"letter", "other"}:
            code = "score" if kind == "letter" else "rating"
            offset = topic.letter(partition, f"{code}: wrong")
            if error in {None, code}:
                wanted[partition, offset] = topic.records[partition][offset].timestamp()[1]
        elif kind == "mark" and topic.ends[partition]:
            letter = topic.ends[partition] // 2
            topic.mark(partition, letter)
            replayed.add((partition, letter))
        else:
            topic.gap(partition, 1 if kind == "gap" else 30)
    topic.firsts = {number: min(first, end) for number, end in topic.ends.items()}
    wanted = {place: at for place, at in wanted.items() if place[1] >= topic.firsts[place[0]]}

    found = all_pages(topic.browser(), limit, error)
    assert names(found) == sorted(wanted, key=lambda place: wanted[place], reverse=True)
    for shown in found:
        assert shown["replayed"] is ((shown["partition"], shown["offset"]) in replayed)


def test_a_letter_is_shown_and_its_contents_with_it() -> None:
    topic = Topic(1)
    value = b'<script>\x00\xff\xfe"' + b"x" * 300
    topic.letter(0, f"score: {'<b>' * 500}", value, headers=[("<i>", b"\xff"), ("none", None)])
    (shown,) = topic.browser().page(5, None, None).letters
    assert shown | {"time": None} == {
        "partition": 0,
        "offset": 0,
        "time": None,
        "error": "score",
        "detail": ("<b>" * 500)[:500],
        "source": {"topic": "in", "partition": 1, "offset": 7},
        "replayed": False,
        "size": len(value),
        "preview": '<script>\x00\ufffd\ufffd"' + "x" * 188,
    }
    assert shown["time"].timestamp() * 1_000 == _NOW
    whole = topic.browser().letter(0, 0)
    assert whole["text"] == value.decode(errors="replace")
    assert b64decode(whole["base64"]) == value
    assert b64decode(whole["keyBase64"]) == b"\xff\x00"
    assert (whole["headers"]["<i>"], whole["headers"]["none"]) == ("\ufffd", "")
    assert "preview" not in whole
    assert msgspec.json.decode(msgspec.json.encode(whole))["text"] == whole["text"]


@pytest.mark.parametrize(("said", "ms"), [(b"1700000000000", 1_700_000_000_000), (b"-1", _NOW), (b"9" * 30, _NOW)])
def test_when_it_was_set_aside_is_what_a_worker_says(said: bytes, ms: int) -> None:
    topic = Topic(1)
    topic.letter(0, headers=[(str(Header.DECIDED_AT), said)])
    (shown,) = topic.browser().page(5, None, None).letters
    assert shown["time"].timestamp() * 1_000 == ms


def test_there_is_no_letter_where_there_is_none() -> None:
    topic = Topic(1)
    topic.letter(0)
    topic.mark(0, 0)
    topic.gap(0)
    topic.letter(0)
    browser = topic.browser()
    for partition, offset in [(0, 1), (0, 2), (0, 4), (1, 0), (0, 1 << 62)]:
        with pytest.raises(NoLetter):
            browser.letter(partition, offset)
    assert browser.letter(0, 0)["replayed"] is True
    assert browser.letter(0, 3)["replayed"] is False
    topic.firsts[0] = 1
    with pytest.raises(NoLetter):
        browser.letter(0, 0)


def test_a_page_reads_no_more_than_it_may() -> None:
    topic = Topic(2)
    for _ in range(3_000):
        topic.letter(0, "rating: wrong")
        topic.letter(1, "rating: wrong")
    first = topic.browser().page(50, None, "score")
    assert first.letters == []
    assert first.next is not None
    assert topic.read_so_far <= 2 * browsing._MOST_RECORDS
    # And yet one gets to the end.
    topic.letter(1, "score: wrong")
    topic.records[0][5] = Record(0, 5, _NOW, b"", [(str(Header.ERROR), b"score: wrong")])
    assert len(all_pages(topic.browser(), 50, "score")) == 2


def test_large_letters_are_read_a_few_at_a_time() -> None:
    topic = Topic(8)
    large = b"x" * (1 << 20)
    for number in range(400):
        topic.letter(number % 8, value=large)
    browser = topic.browser()
    browser.page(50, None, None)
    once = topic.read_so_far
    letters, following = browser.page(50, None, None)
    assert topic.read_so_far - once <= 32
    assert letters
    assert following is not None
    assert len(all_pages(browser, 50)) == 400


def test_a_broker_that_is_slow_gives_what_it_has_given() -> None:
    topic = Topic(1)
    for _ in range(500):
        topic.letter(0)
    topic.seconds_each = browsing._PATIENCE_S / 100
    letters, following = topic.browser().page(90, None, "score")
    assert 80 < len(letters) <= 90
    assert following is not None
    with pytest.raises(TookTooLong):
        topic.browser().page(150, None, None)
    topic.seconds_each = 10 * browsing._PATIENCE_S
    with pytest.raises(TookTooLong):
        topic.browser().page(50, None, None)


def test_on_a_worker_that_has_seen_nothing_marks_are_looked_for_unless_that_takes_long() -> None:
    topic = Topic(1)
    letter = topic.letter(0)
    topic.letter(0)
    topic.mark(0, letter)
    before = {0: 2}
    assert [each["replayed"] for each in topic.browser().page(5, before, None).letters] == [False, True]
    for _ in range(2_000):
        topic.letter(0)
    assert [each["replayed"] for each in topic.browser().page(5, before, None).letters] == [None, None]
    assert topic.browser().letter(0, letter)["replayed"] is None


def test_a_mark_that_comes_later_is_seen() -> None:
    topic = Topic(1)
    letter = topic.letter(0)
    browser = topic.browser()
    assert browser.page(5, None, None).letters[0]["replayed"] is False
    topic.mark(0, letter)
    assert browser.page(5, {0: 1}, None).letters[0]["replayed"] is True
    assert browser.letter(0, letter)["replayed"] is True


# -- marks -----------------------------------------------------------------------------------------------------------


def test_what_touches_is_one_stretch() -> None:
    known = KnownMarks()
    known.note(80, 100, {3}, 100)
    known.note(60, 80, {61}, 100)
    assert (known.low, known.high) == (60, 100)
    assert [known.replayed(offset, 100) for offset in (3, 61, 70, 58)] == [True, True, False, None]
    known.note(10, 20, {5}, 100)  # stands apart, and not at the end
    assert (known.low, known.high, known.letters) == (60, 100, {3, 61})
    known.note(150, 200, {90}, 200)  # stands apart, at the end
    assert (known.low, known.high, known.letters) == (150, 200, {90})


def test_a_topic_that_is_shorter_than_it_was_is_another_one() -> None:
    known = KnownMarks()
    known.note(0, 100, {3}, 100)
    known.note(0, 10, set(), 10)
    assert known.replayed(3, 10) is False


def test_marks_are_bounded() -> None:
    known = KnownMarks()
    known.note(0, 100_000, set(range(MOST_MARKS + 1)), 100_000)
    assert known.letters == set()
    assert known.replayed(3, 100_000) is None


# -- cursors ---------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, (1 << 31) - 1), st.integers(0, (1 << 63) - 1), min_size=1, max_size=30))
def test_a_cursor_says_what_was_put_into_it(left: dict[int, int]) -> None:
    text = cursor.encode(left)
    assert text is not None
    assert cursor.decode(text) == left


def test_nothing_left_is_no_cursor() -> None:
    assert cursor.encode({}) is None


@pytest.mark.parametrize(
    "text",
    ["", ".", "1", "1-", "-1", "1-2.", "1-2.1-3", "a-b", "1-٣", f"{1 << 31}-1", f"1-{1 << 63}", "1-2." * 20_000],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        cursor.decode(text)
