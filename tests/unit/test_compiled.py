"""The compiled part comes to what Python comes to, to the byte, and does the work that it is there for.

What it counts is compared in ``test_folding.py`` and ``tests/fuzz/harness.py`` as well, wherever something is folded.
"""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import confluent_kafka
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app import closing, compiled
from feedback_app.core.aggregate import MAX_TAGS, Aggregate
from feedback_app.core.counts import Counts
from feedback_app.core.events import LAST_MS, Decoded
from feedback_app.core.partitioning import partition_of
from feedback_app.core.state import OPEN, window_key
from feedback_app.folding import Fold
from feedback_app.models import decode
from feedback_app.simulation import Scenario, simulate
from feedback_app.transport.clients import ConfluentClient
from feedback_app.transport.readers import ConfluentReader
from tests.fuzz.corpus import NASTY_TEXTS, simulated, valid
from tests.fuzz.harness import NOW_MS, RULES, Record, State, check

_MODULE = "feedback_native"
_SHARED = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def asked_anew() -> Any:
    """Whether there is a compiled part is found out once in a process: here, once in a test."""
    compiled._native.cache_clear()
    compiled._librdkafka.cache_clear()
    yield
    compiled._native.cache_clear()
    compiled._librdkafka.cache_clear()


# -- counting ------------------------------------------------------------------------------------------------------


def never(values: Sequence[bytes | None]) -> Sequence[Decoded]:
    raise AssertionError(f"asked Python about {values}")


@pytest.mark.parametrize(
    "value",
    [
        valid(NOW_MS),
        valid(NOW_MS, score=5, messageId="m", conversationId="c", tags=["slow", "wrong"], comment="so so"),
        valid(NOW_MS, score=None, messageId=None, conversationId=None, tags=None, comment=None),
        valid(NOW_MS, tags=[], comment="", messageId=""),
        valid(NOW_MS, feedbackId="é" * 128, userId="😀" * 128, comment="ü" * 2_000, tags=["ß" * 32] * 8),
    ],
)
@pytest.mark.parametrize("encode", [orjson.dumps, lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2)])
def test_what_is_written_plainly_is_counted_without_python(
    native: ModuleType, value: dict[str, Any], encode: Callable[[object], bytes]
) -> None:
    """Else it would be right, and of no use."""
    fold = Fold(State(), replace(RULES, keep_items=False, counts=native.Counts), NOW_MS)
    fold.add("feedback", 0, [Record(encode(value), offset) for offset in range(3)], never)
    (counted,) = fold.transaction().changes.values()
    assert Aggregate.decode(counted or b"").count == 3


@pytest.mark.parametrize(
    "end",
    [
        *(
            b',"agentId":"ann"}',
            b',"rating":"positive"}',
            b',"timestamp":1700000000000}',
            b',"extra":1}',
            b"}}",
            b"} x",
            b"",
        ),
        *(b',"score":0}', b',"score":6}', b',"score":11}', b',"score":1.0}', b',"score":"1"}', b',"score":-1}'),
        *(b',"tags":[""]}', b',"tags":["' + b"x" * 33 + b'"]}', b',"tags":["a",]}', b',"tags":[1]}', b',"tags":["a"}'),
        *(
            b',"tags":["a"' + b',"a"' * 8 + b"]}",
            b',"comment":"' + b"x" * 2_001 + b'"}',
            b',"comment":"\\n"}',
            b',"comment":1}',
        ),
        *(
            b',"messageId":"' + b"x" * 129 + b'"}',
            b',"conversationId":"\x1f"}',
            b',"messageId":"\xff"}',
            b',"score":nul}',
            b",}",
        ),
    ],
)
def test_what_is_not_plain_is_left_to_python(native: ModuleType, end: bytes) -> None:
    """Whether it is an event or not."""
    assert asked_about(native, orjson.dumps(valid(NOW_MS))[:-1] + end)


@pytest.mark.parametrize(
    "special", [b"\x00", b"\x1f", b'"', b"\\", b"\x7f", b" ", b"!", b"#", b"[", b"]", "é".encode()]
)
def test_a_text_is_plain_up_to_its_first_special_byte_wherever_that_is(native: ModuleType, special: bytes) -> None:
    """Eight bytes are looked at at once, and what is left over one by one."""
    plain = special >= b" " and special not in {b'"', b"\\"}
    for length in range(20):
        for at in range(length + 1):
            text = b"~" * at + special + b"~" * (length - at)
            value = orjson.dumps(valid(NOW_MS))[:-1] + b',"comment":"%b"}' % text
            assert asked_about(native, value) != plain, (length, at)


@pytest.mark.parametrize(
    "timestamp", [b"0%d" % NOW_MS, b"-1", b"1.7e12", b"%d.0" % NOW_MS, b"%d" % (LAST_MS + 1), b'"x"']
)
def test_a_time_that_is_not_plain_is_left_to_python(native: ModuleType, timestamp: bytes) -> None:
    value = orjson.dumps(valid(NOW_MS)).replace(b"%d" % NOW_MS, timestamp)
    assert asked_about(native, value, max_future_ms=LAST_MS)


def asked_about(native: ModuleType, value: bytes, max_future_ms: int = 5_000) -> bool:
    """Say whether a record is left to Python, which comes to what it comes to by itself."""
    asked: list[bytes | None] = []

    def noted(values: Sequence[bytes | None]) -> Sequence[Decoded]:
        asked.extend(values)
        return decode(values)

    transactions = []
    for counts in (native.Counts, Counts):
        rules = replace(RULES, keep_items=False, max_future_ms=max_future_ms, counts=counts)
        fold = Fold(State(), rules, NOW_MS)
        fold.add("feedback", 0, [Record(value)], noted if counts is native.Counts else decode)
        transactions.append(fold.transaction())
    assert transactions[0] == transactions[1]
    return asked == [value]


class Stored(State):
    def __init__(self, windows: dict[bytes, bytes | None]) -> None:
        self._windows = windows

    def stored(self, key: bytes) -> bytes | None:
        return self._windows.get(key)

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        return {}, max(self._windows, default=OPEN)


def test_tags_are_named_up_to_the_same_number(native: ModuleType) -> None:
    """In the order in which they come, over several folds."""
    values = [
        orjson.dumps(valid(NOW_MS, tags=[f"tag {8 * number + each}" for each in range(8)])) for number in range(6)
    ]
    stored: dict[Any, dict[bytes, bytes | None]] = {Counts: {}, native.Counts: {}}
    for value in [*values, *values]:
        for counts, windows in stored.items():
            fold = Fold(Stored(windows), replace(RULES, keep_items=False, counts=counts), NOW_MS)
            fold.add("feedback", 0, [Record(value)], never if counts is native.Counts else decode)
            windows.update(fold.transaction().changes)
    assert stored[native.Counts] == stored[Counts]
    (window,) = stored[Counts].values()
    aggregate = Aggregate.decode(window or b"")
    assert (len(aggregate.tags or {}), aggregate.other_tags) == (MAX_TAGS, 2 * (48 - MAX_TAGS))


def test_tags_of_any_size_are_counted_beside_each_other(native: ModuleType) -> None:
    """Short ones first, which stand in the window itself; and one that is the beginning of another."""
    values = [
        orjson.dumps(valid(NOW_MS, tags=tags))
        for tags in (["a", "ab"], ["ab", "b"], ["😀" * 32, "a"], ["ab", "x" * 32, "😀" * 31], ["a", "😀" * 32])
    ]
    changes = []
    for counts in (native.Counts, Counts):
        fold = Fold(State(), replace(RULES, keep_items=False, counts=counts), NOW_MS)
        fold.add("feedback", 0, [Record(value, offset) for offset, value in enumerate(values)], decode)
        changes.append(fold.transaction().changes)
    assert changes[0] == changes[1]
    (window,) = changes[0].values()
    counted = {"a": 3, "ab": 3, "b": 1, "😀" * 32: 2, "x" * 32: 1, "😀" * 31: 1}
    assert Aggregate.decode(window or b"").tags == counted


def test_of_what_the_simulator_sends_python_sees_next_to_nothing(native: ModuleType) -> None:
    scenario = Scenario(2, 60_000, 1_000, 600_000, agents=20, late_share=0.0, invalid_share=0.0)
    values = [record.value for record in simulate(scenario, range(NOW_MS - 2_000, NOW_MS))]
    asked: list[bytes | None] = []

    def noted(values: Sequence[bytes | None]) -> Sequence[Decoded]:
        asked.extend(values)
        return decode(values)

    rules = replace(RULES, keep_items=False, partition_of=lambda agent_id: 0, counts=native.Counts)
    fold = Fold(State(), rules, NOW_MS)
    fold.add("feedback", 0, [Record(value, offset) for offset, value in enumerate(values)], noted)
    assert fold.records == len(values)
    assert len(asked) < len(values) / 100


_BYTES = st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b",", b"}", b"null", b"1", b" ", b"\x00", b"\xc3", b"{"])


@_SHARED
@given(
    st.sampled_from([value for value in simulated(NOW_MS, 60) if value]), st.integers(0, 400), st.integers(0, 3), _BYTES
)
def test_a_spoiled_event_is_judged_as_python_judges_it(
    native: ModuleType, value: bytes, at: int, cut: int, put: bytes
) -> None:
    """One spot of an event is replaced: ``check`` folds it with either."""
    check([Record(value[:at] + put + value[at + cut :]), Record(value, 1)])


def test_a_stored_window_that_is_no_window_is_refused(native: ModuleType) -> None:
    stored = Aggregate().encode()
    for broken in (b"\x02" + stored[1:], stored[:-1], stored + b"{", stored + b'{"a":}', stored + b'{"a":1'):
        counts = native.Counts(lambda key, broken=broken: broken, 60_000, 5_000, NOW_MS, NOW_MS)
        with pytest.raises(ValueError, match="a stored window has a format that is unknown here"):
            counts.put(b"o", broken)


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_without_a_size_is_refused(native: ModuleType, size: int) -> None:
    with pytest.raises(ValueError, match="a window has at least a millisecond"):
        native.Counts(lambda key: b"", size, 0, 0, 0)


def test_an_error_in_python_comes_through(native: ModuleType) -> None:
    asking = replace(RULES, keep_items=False, counts=native.Counts, partitions=None)

    def fails(agent_id: str) -> int:
        raise OSError("the disk is gone")

    fold = Fold(State(), replace(asking, partition_of=fails), NOW_MS)
    with pytest.raises(OSError, match="the disk is gone"):
        fold.add("feedback", 0, [Record(orjson.dumps(valid(NOW_MS)))], never)


@pytest.mark.parametrize("kind", ["in Python", "compiled"])
def test_a_fold_that_is_done_with_is_gone_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    """It holds thousands of windows: nothing may keep it until the garbage collector comes by."""
    counts = Counts if kind == "in Python" else request.getfixturevalue("native").Counts
    gc.disable()
    try:
        fold = Fold(State(), replace(RULES, counts=counts), NOW_MS)
        gone = weakref.ref(fold)
        del fold
        assert gone() is None
    finally:
        gc.enable()


# -- closing -------------------------------------------------------------------------------------------------------

_TEXTS = st.text(min_size=1, max_size=20) | st.sampled_from(NASTY_TEXTS)
_COUNT = st.integers(0, 10) | st.integers(0, 2**40)
_TIME = st.integers(0, LAST_MS) | st.sampled_from([0, 1, 999, 1_000, 951_782_400_000, LAST_MS])


@st.composite
def _windows(draw: st.DrawFn) -> tuple[bytes, bytes]:
    aggregate = Aggregate()
    for name in ("revision", "positive", "negative", "neutral", "score_sum", "comments", "other_tags", "checksum"):
        setattr(aggregate, name, draw(st.integers(0, 2**31) if name == "revision" else _COUNT))
    if draw(st.booleans()):
        aggregate.score_count, aggregate.score_min, aggregate.score_max = draw(st.integers(1, 9)), 1, 5
    aggregate.first, aggregate.last = draw(_TIME), draw(_TIME)
    aggregate.tags = draw(st.dictionaries(_TEXTS, st.integers(1, 2**40), max_size=MAX_TAGS)) or None
    size = draw(st.sampled_from([1, 1_000, 60_000, 86_400_000]))
    end = (draw(_TIME) // size + 1) * size
    return window_key(OPEN, draw(_TEXTS), end, size), aggregate.encode()


@_SHARED
@given(st.lists(_windows(), max_size=5))
def test_windows_are_described_as_python_describes_them(native: ModuleType, due: list[tuple[bytes, bytes]]) -> None:
    described = list(compiled.describe()(due))
    in_python = list(closing.describe(due))
    assert described == in_python
    # Dictionaries are equal in any order, and 1 == True.
    for (document, _), (other, _) in zip(described, in_python, strict=True):
        assert [(name, type(value)) for name, value in document.items()] == [
            (name, type(value)) for name, value in other.items()
        ]


def test_what_needs_no_escapes_is_described_without_python(native: ModuleType) -> None:
    aggregate = Aggregate()
    aggregate.tags = {"schön": 1, "😀": 2}
    plain = (window_key(OPEN, "ann-ü", 60_000, 60_000), aggregate.encode())
    assert native.describe([plain]) == list(closing.describe([plain]))
    for text in ('"', "\\", "\n", "\x7f"):
        aggregate.tags = {text: 1}
        assert native.describe([(window_key(OPEN, text, 60_000, 60_000), plain[1])]) == [None]
        assert native.describe([(plain[0], aggregate.encode())]) == [None]


# -- partitioning --------------------------------------------------------------------------------------------------


@_SHARED
@given(_TEXTS, st.integers(1, 1_000))
def test_an_agent_belongs_to_the_same_partition(native: ModuleType, agent_id: str, partitions: int) -> None:
    assert compiled.partitioner(partitions)(agent_id) == partition_of(agent_id, partitions)


# -- whether there is one ------------------------------------------------------------------------------------------


def test_where_there_is_none_python_does_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, _MODULE, None)  # an import of it fails
    with caplog.at_level(logging.INFO):
        assert (compiled.counts(), compiled.describe()) == (Counts, closing.describe)
    assert (compiled.client(), compiled.reader()) == (ConfluentClient, ConfluentReader)
    assert compiled.partitioner(7)("ann") == partition_of("ann", 7)
    assert [record.getMessage() for record in caplog.records] == [
        "Events are counted in Python: feedback_native is not installed, which does it faster."
    ]


def test_one_of_another_interface_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = ModuleType(_MODULE)
    old.INTERFACE = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, _MODULE, old)
    assert (compiled.counts(), compiled.describe()) == (Counts, closing.describe)
    assert (compiled.client(), compiled.reader()) == (ConfluentClient, ConfluentReader)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"feedback_native has interface 0, and {compiled._INTERFACE} is needed" in record.getMessage()


def test_where_there_is_one_it_does_it(native: ModuleType) -> None:
    assert compiled.counts() is native.Counts
    assert compiled.describe() is not closing.describe
    assert compiled.client() is not ConfluentClient
    assert compiled.reader() is not ConfluentReader


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_librdkafka_that_can_not_be_used_is_told_and_left(
    native: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    package, libraries = tmp_path / "confluent_kafka", tmp_path / "confluent_kafka.libs"
    libraries.mkdir()
    if content is not None:
        (libraries / "librdkafka-1.so.1").write_bytes(content)
    monkeypatch.setattr(confluent_kafka, "__file__", str(package / "__init__.py"))
    assert (compiled.client(), compiled.reader()) == (ConfluentClient, ConfluentReader)
    assert compiled.counts() is native.Counts
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Records are fetched and sent through confluent-kafka")
