"""What the fuzzer starts from, and what the worker is sent whole: valid events, spoiled ones, and known nasties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from feedback_app.core.headers import Header
from feedback_app.simulation import Scenario, simulate

#: Texts that have hurt somebody: markup, quotes, operators, field paths, NUL, controls, direction marks, noncharacters.
NASTY_TEXTS: Final = (
    "<script>alert(1)</script>",
    "\"'`;--",
    "$where",
    "a.b.$c",
    "{{7*7}}%s%n${x}",
    "|1|2|3",
    "..\\../etc/passwd",
    "\r\n\x1b[31m\x07",
    "\u202egnp.exe",
    "\ufeff\ufffe\uffff",
    "\U0010ffff",
    "e\u0301\u0327",
    "\u0130\u0131\u017fK",
    "__proto__",
)
#: Literals that are no value of any field; each is tried in each.
NASTY_LITERALS: Final = (
    *(b"NaN", b"Infinity", b"-Infinity", b"-0", b"-0.0", b"1e999", b"1e-999", b"0e0", b"1E3", b"01", b"0x1", b"+1"),
    *(b"1" + b"0" * 400, b"-1" + b"0" * 400, b"9" * 5_000, b"18446744073709551616", b"-9223372036854775809"),
    *(b"true", b"null", b"[]", b"{}", b'""', b"[[]]", b'{"$gt":""}', b"undefined", b"'x'"),
    *(b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\ud83d"', b'"\\u0000"', b'"a\\u0000b"', b'"\\x00"', b'"\x00"'),
    *(b'"\xed\xa0\x80"', b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xc0\x80"', b'"\xc0\xaf"', b'"\xe0\x80\xaf"'),
    *(b'"\xf0\x80\x80\xaf"', b'"\xf4\x90\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\xff"', b'"\x80"', b'"\xe2\x82"'),
)
FIELDS: Final = (
    *("feedbackId", "agentId", "userId", "rating", "timestamp"),
    *("score", "messageId", "conversationId", "tags", "comment", "extra"),
)


def valid(now_ms: int, **fields: Any) -> dict[str, Any]:
    """Return a valid event at *now_ms*, with other *fields*."""
    event = {"feedbackId": "f1", "agentId": "ann", "userId": "u1", "rating": "positive", "timestamp": now_ms}
    return event | fields


def with_literal(now_ms: int, field: str, literal: bytes) -> bytes:
    """Return an event in which *field* has a value that no encoder would write."""
    event = valid(now_ms)
    event.pop(field, None)
    return b'%b,"%b":%b}' % (orjson.dumps(event)[:-1], field.encode(), literal)


def nasties(now_ms: int) -> Iterator[bytes | None]:
    """Yield records with known nasties, valid and not, small enough to be mutated."""
    event = orjson.dumps(valid(now_ms))
    for text in NASTY_TEXTS:
        for field in ("feedbackId", "agentId", "userId", "messageId", "conversationId", "comment", "extra"):
            yield orjson.dumps(valid(now_ms, **{field: text}))
        yield orjson.dumps(valid(now_ms, tags=[text, text, "x"]))
        yield orjson.dumps(valid(now_ms, **{text: text}))
    for field in FIELDS:
        for literal in NASTY_LITERALS:
            yield with_literal(now_ms, field, literal)
    for field in ("feedbackId", "messageId", "comment"):
        yield orjson.dumps(valid(now_ms, **{field: "a\x00b"}))
    yield orjson.dumps(valid(now_ms, tags=["\x00", "a\x00b"]))
    yield orjson.dumps(valid(now_ms, **{"$set": {"a.b": 1}, "a\x00b": 1, "": ""}))
    # The same key twice, and once more in another notation.
    yield event[:-1] + b',"rating":"negative","rating":"neutral"}'
    yield event[:-1] + b',"score":5,"score":"5"}'
    yield event[:-1] + b',"agent\\u0049d":"agent-2"}'
    yield from (b"\xef\xbb\xbf" + event, event.decode().encode("utf-16"), event.decode().encode("utf-32"))
    # Two that are one event when joined by a comma, or by nothing.
    comma = event.index(b",")
    yield from (event[:comma], event[comma + 1 :], event[: len(event) // 2], event[len(event) // 2 :])
    yield from (b"[" + event, event + b"]", event + b"," + event, event + event, event + b"\n" + event)
    yield from (None, b"", b" ", b"\x00", b"null", b"{}", b"[]", b'"', b"{", b"\xff\xfe")
    for text in (
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "2023-11-14T22:13:20Z",
        "9" * 400 + "-01-01",
    ):
        yield orjson.dumps(valid(now_ms, timestamp=text))
    for at in (0, now_ms - 10**9, now_ms + 10**9, 253_402_300_799_999, 1 << 53, (1 << 63) - 1, (1 << 64) - 1):
        yield orjson.dumps(valid(now_ms, timestamp=at))


def large(now_ms: int) -> Iterator[bytes]:
    """Yield records that are deep or long: too slow to be mutated by the million."""
    for depth in (100, 10_000, 100_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            nested = opening * depth + b"1" + closing * depth
            yield nested
            yield opening * depth
            for field in ("extra", "tags", "agentId", "timestamp"):
                yield with_literal(now_ms, field, nested)
    for field in FIELDS:
        yield orjson.dumps(valid(now_ms, **{field: "x" * 1_000_000}))
    yield orjson.dumps(valid(now_ms, tags=["x"] * 300_000))
    yield orjson.dumps(valid(now_ms, **{str(number): number for number in range(50_000)}))
    yield orjson.dumps(valid(now_ms))[:-1] + b',"rating":"neutral"' * 50_000 + b"}"
    yield with_literal(now_ms, "score", b"9" * 1_000_000)


#: Headers of all sorts, for any record.
ODD_HEADERS: Final = (
    [("trace", b"1"), ("trace", b"2"), ("trace", None)],
    [("", b""), ("", None)],
    [("binary", bytes(range(256))), ("İ\U0010ffff", b"\xff")],
    [(str(name), b"a lie") for name in Header],
    [(str(name), None) for name in Header],
    [("feedback-", b"x"), ("feedback-origin-topic", b"\xff"), ("Feedback-Error", b"x")],
    [
        (str(Header.ORIGIN_TOPIC), b"x"),
        (str(Header.ORIGIN_PARTITION), b"9" * 5_000),
        (str(Header.ORIGIN_OFFSET), b"-1"),
    ],
    [("long", bytes(100_000))],
    [(str(Header.TRUNCATED), b"1"), (str(Header.TRUNCATED), b"2"), (str(Header.TRUNCATED), b"3")],
    [("h", b"v")] * 1_000,
)


def simulated(now_ms: int, count: int) -> Iterator[bytes | None]:
    """Yield the simulator's records, its spoiled ones included."""
    scenario = Scenario(2, 60_000, 1_000, 600_000, agents=20, late_share=0.2, invalid_share=0.3)
    for record in simulate(scenario, range(now_ms - count, now_ms)):
        yield record.value
