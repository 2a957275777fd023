"""Whatever a record carries, it ends in one place, and nothing that follows from it can fail.

The rules are those of ``tests/fuzz/harness.py``; the fuzzer goes on from here for as long as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.events import Headers
from feedback_app.core.headers import Header
from feedback_app.models import decode, validate
from feedback_app.publisher import encoded
from feedback_app.topics import MAX_INPUT_BYTES
from tests.fuzz.corpus import (
    FIELDS,
    NASTY_LITERALS,
    NASTY_TEXTS,
    ODD_HEADERS,
    large,
    nasties,
    simulated,
    valid,
    with_literal,
)
from tests.fuzz.harness import NOW_MS, TOPICS, Endings, Record, check

_AT_HOME, _AWAY = "ann", "agent-1"
_KNOWN = [*nasties(NOW_MS), *simulated(NOW_MS, 300)]


def test_every_known_nasty_alone_and_all_together() -> None:
    endings = [check([Record(value)]) for value in _KNOWN]
    counted, late, dead, forwarded = (sum(column) for column in zip(*endings, strict=True))
    assert min(counted, late, dead, forwarded) > 0, "all kinds of them"
    together = check([Record(value, offset) for offset, value in enumerate(_KNOWN)])
    assert (together.counted + together.late, together.dead, together.forwarded) == (counted + late, dead, forwarded)


@pytest.mark.parametrize("number", range(len(list(large(NOW_MS)))))
def test_what_is_deep_or_long(number: int) -> None:
    value = list(large(NOW_MS))[number]
    check([Record(value), Record(orjson.dumps(valid(NOW_MS)), 1)])


# Which limit it is that a record breaks makes no difference: value, key, headers, or their sum.
@pytest.mark.parametrize("topic", [TOPICS.feedback, TOPICS.repartition])
@pytest.mark.parametrize("agent", [_AT_HOME, _AWAY])
@pytest.mark.parametrize("at_ms", [NOW_MS, NOW_MS - 10**9, NOW_MS + 10**9])
@pytest.mark.parametrize("key_bytes", [0, 8_193, 3_000_000])
@pytest.mark.parametrize("header_bytes", [0, 3_000_000])
@pytest.mark.parametrize("spare", [0, -1])
def test_what_is_passed_on_fits_into_its_topic(
    topic: str, agent: str, at_ms: int, key_bytes: int, header_bytes: int, spare: int
) -> None:
    event = valid(at_ms, agentId=agent, extra="")
    event["extra"] = "x" * (MAX_INPUT_BYTES - spare - len(orjson.dumps(event)))
    value = orjson.dumps(event)
    assert len(value) == MAX_INPUT_BYTES - spare
    headers = [("trace", bytes(header_bytes))]
    endings = check([Record(value, 0, topic, bytes(key_bytes), headers)])
    if spare < 0:
        assert endings == Endings(0, 0, 1, 0), "no feedback event, wherever it would belong"
    else:
        assert endings.dead == (agent == _AT_HOME and at_ms > NOW_MS)


@pytest.mark.parametrize("agent", [_AT_HOME, _AWAY])
@pytest.mark.parametrize("value", [b"x" * 2_000_000, b"9" * 2_000_000, None])
@pytest.mark.parametrize("name", [Header.ORIGIN_TOPIC, Header.ORIGIN_PARTITION, Header.ORIGIN_OFFSET, Header.TRUNCATED])
def test_who_writes_to_the_repartition_topic_himself_can_not_blow_up_what_we_add(
    agent: str, value: bytes | None, name: Header
) -> None:
    named = {Header.ORIGIN_TOPIC: b"feedback", Header.ORIGIN_PARTITION: b"0", Header.ORIGIN_OFFSET: b"7"}
    headers = [(str(each), of) for each, of in (named | {name: value}).items()]
    for content in (orjson.dumps(valid(NOW_MS - 10**9, agentId=agent)), b"{"):
        check([Record(content, 0, TOPICS.repartition, None, headers)])


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)  # halves of surrogate pairs too
    | st.sampled_from(NASTY_TEXTS)
    | st.integers(NOW_MS - 10**6, NOW_MS + 10**4),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=6,
)
_EVENTS = st.builds(
    valid,
    st.integers(NOW_MS - 800_000, NOW_MS + 6_000),
    agentId=st.sampled_from([_AT_HOME, _AT_HOME, _AWAY, *NASTY_TEXTS]),
    tags=st.none() | st.lists(st.text(min_size=1, max_size=32), max_size=8),
    comment=st.none() | st.text(max_size=50),
    score=st.none() | st.integers(1, 5),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """An event with some fields replaced by any JSON, and then perhaps some bytes by any bytes."""
    event = draw(_EVENTS) | draw(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), _JSON, max_size=3))
    data = json.dumps(event, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    return data


_VALUES: st.SearchStrategy[bytes | None] = st.one_of(
    st.sampled_from(_KNOWN),
    st.binary(max_size=100),
    _JSON.map(lambda value: json.dumps(value).encode()),
    _EVENTS.map(orjson.dumps),
    _mutated(),
    st.builds(with_literal, st.just(NOW_MS), st.sampled_from(FIELDS), st.sampled_from(NASTY_LITERALS)),
)
_NAMES = st.sampled_from([str(name) for name in Header]) | st.text(st.characters(codec="utf-8"), max_size=10)
_HEADERS: st.SearchStrategy[Headers | None] = st.one_of(
    st.none(),
    st.sampled_from([list(headers) for headers in ODD_HEADERS]),
    st.lists(st.tuples(_NAMES, st.none() | st.binary(max_size=10)), max_size=8),
)
_RECORDS = st.builds(
    Record,
    content=_VALUES,
    key_=st.none() | st.binary(max_size=10),
    headers_=_HEADERS,
    bad_name=st.sampled_from([False, False, False, True]),
)


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.lists(_RECORDS, min_size=1, max_size=6), st.sampled_from([TOPICS.feedback, TOPICS.repartition]))
def test_any_records_in_any_company(records: Sequence[Record], topic: str) -> None:
    check([replace(record, offset_=offset, topic_=topic) for offset, record in enumerate(records)])


# -- what the publisher takes --------------------------------------------------------------------------------------


class _Text(str):
    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"something else"


class _Rating(StrEnum):
    POSITIVE = "positive"


class _Score(IntEnum):
    BEST = 5


_OBJECTS: list[object] = [
    *(_Text("text"), _Text("\ud800"), _Rating.POSITIVE, _Score.BEST, b"bytes", bytearray(b"x"), 5.0, 1 << 63, 1 << 64),
    *(10**400, -1, (1, 2), {1, 2}, ["a", _Text("b")], ["\udfff"], "\ud800", "a\x00b", object(), NOW_MS * 10**6),
    *("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00+00:01"),
]
_KEYS: st.SearchStrategy[Any] = st.sampled_from([*FIELDS, "\ud800", 5, None, b"agentId", _Text("agentId")])


def _publish(event: dict[Any, Any]) -> None:
    """Check that an event is refused in one line, or is the same one to the worker."""
    try:
        checked = validate(event)
    except ValueError as refused:
        told = str(refused)
        assert told.isprintable(), "one line"
        return
    (decoded,) = decode([encoded(checked)])
    assert msgspec.to_builtins(decoded) == {name: value for name, value in checked.items() if value is not None}
    agent_id = checked["agentId"]
    assert agent_id.encode().decode() == agent_id, "its key is its agent's"


@pytest.mark.parametrize("field", FIELDS)
def test_no_object_that_the_publisher_takes_is_anything_else_to_the_worker(field: str) -> None:
    for value in (*_OBJECTS, *NASTY_TEXTS):
        _publish(valid(NOW_MS, **{field: value}))


@hypothesis_settings(deadline=None, max_examples=200)
@given(_EVENTS, st.dictionaries(_KEYS, _JSON | st.sampled_from(_OBJECTS), max_size=3))
def test_what_the_publisher_takes_is_to_the_worker_the_same_event(
    event: dict[str, Any], changes: dict[Any, object]
) -> None:
    _publish(event | changes)


@pytest.mark.parametrize(
    "field", ["feedbackId", "agentId", "userId", "messageId", "conversationId", "comment", "rating"]
)
@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud83d\ude00"])
def test_half_a_character_is_refused_in_one_line(field: str, text: str) -> None:
    for wrong in ({field: text}, {"tags": [text]}, {"timestamp": text}):
        with pytest.raises(ValueError, match=r"^[ -~]+$") as raised:
            validate(valid(NOW_MS, **wrong))
        assert str(raised.value).startswith(f"{next(iter(wrong))}: ")
