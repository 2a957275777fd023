"""What is a feedback event and what is none: each rule of the contract, and that no record can stop the stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from feedback_app.core.events import Decoded, Event, Invalid
from feedback_app.models import EMPTY, FeedbackEvent, decode, validate
from feedback_app.topics import MAX_INPUT_BYTES

REQUIRED = {"feedbackId": "f1", "agentId": "ann", "userId": "u1", "rating": "positive", "timestamp": 1_700_000_000_000}
NOON_MS = 1_769_860_800_000  # 2026-01-31T12:00:00Z
LAST_MS = 253_402_300_799_999  # the year 9999 ends

TIMESTAMP_RULE = "timestamp: must be milliseconds since the epoch, or RFC 3339 with an offset"


def wire(**fields: Any) -> bytes:
    return orjson.dumps(REQUIRED | fields)


def raw(field: str, literal: bytes) -> bytes:
    """An event with a literal that no encoder would write."""
    others = orjson.dumps({name: value for name, value in REQUIRED.items() if name != field})
    return b'%b,"%b":%b}' % (others[:-1], field.encode(), literal)


def one(value: bytes | None) -> Decoded:
    (decoded,) = decode([value])
    return decoded


def fields_of(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return fields


def event_of(value: bytes | None) -> dict[str, Any]:
    decoded = one(value)
    assert not isinstance(decoded, Invalid), decoded.error
    return fields_of(decoded)


def error_of(value: bytes | None) -> str:
    decoded = one(value)
    assert isinstance(decoded, Invalid), decoded
    return decoded.error


# -- what is accepted ----------------------------------------------------------------------------------------------


def test_the_required_fields_suffice() -> None:
    assert event_of(wire()) == REQUIRED


def test_every_optional_field_is_kept() -> None:
    optional = {"score": 4, "messageId": "m1", "conversationId": "c1", "tags": ["a", "b"], "comment": "well done"}
    assert event_of(wire(**optional)) == REQUIRED | optional


@pytest.mark.parametrize(
    "fields",
    [
        {"feedbackId": "f"},
        {"feedbackId": "ü" * 128},
        {"agentId": "\U0001f600" * 128},  # characters, not bytes
        {"userId": "|:$.\n\t\x01\x7f "},
        {"rating": "negative"},
        {"rating": "neutral"},
        {"timestamp": 0},
        {"timestamp": LAST_MS},
        {"score": 1},
        {"score": 5},
        {"messageId": ""},
        {"messageId": "m" * 128},
        {"conversationId": "c" * 128},
        {"tags": []},
        {"tags": ["t" * 32] * 8},
        {"tags": ["$where", "a.b", " "]},
        {"comment": ""},
        {"comment": "ß" * 2_000},
        {"comment": "a\x00b"},
    ],
)
def test_values_at_the_bounds_are_accepted(fields: dict[str, Any]) -> None:
    assert event_of(wire(**fields)) == REQUIRED | fields


@pytest.mark.parametrize("field", ["score", "messageId", "conversationId", "tags", "comment"])
def test_null_counts_as_absent(field: str) -> None:
    assert event_of(wire(**{field: None})) == REQUIRED


@pytest.mark.parametrize(
    "unknown",
    [b"1", b"null", b'{"agentId": 5, "$where": [1, {}]}', b"1e400", b"9" * 100, b'"\\u0000"', b"[" * 100 + b"]" * 100],
)
def test_unknown_fields_are_ignored(unknown: bytes) -> None:
    assert event_of(raw("extra", unknown)) == REQUIRED


def test_a_large_record_is_read_like_any_other() -> None:
    assert event_of(wire(extra="x" * 1_000_000)) == REQUIRED
    assert error_of(wire(comment="x" * 1_000_000)) == "comment: String should have at most 2000 characters"


def test_a_record_that_is_too_large_is_not_even_parsed() -> None:
    filler = MAX_INPUT_BYTES - len(wire(extra=""))
    fits, too_large = wire(extra="x" * filler), wire(extra="x" * (filler + 1))
    assert event_of(fits) == REQUIRED
    error = f"too large: {MAX_INPUT_BYTES + 1} bytes, at most {MAX_INPUT_BYTES} are allowed"
    assert error_of(too_large) == error
    assert error_of(b"{" * (MAX_INPUT_BYTES + 1)) == error
    assert decode([None, fits, too_large, wire()]) == [EMPTY, one(wire()), Invalid(error), one(wire())]


# The last of two is the one that counts: what a database or another parser makes of it is not asked.
@pytest.mark.parametrize("again", [b'"rating":"neutral","rating":"negative"', b'"r\\u0061ting":"negative"'])
def test_of_a_key_that_comes_twice_the_last_counts(again: bytes) -> None:
    assert event_of(wire()[:-1] + b"," + again + b"}") == REQUIRED | {"rating": "negative"}
    assert error_of(wire()[:-1] + b"," + again + b',"rating":"great"}').startswith("rating: ")


@pytest.mark.parametrize("field", ["agentId", "comment", "tags", "extra"])
@pytest.mark.parametrize(
    "overlong", [b"\xc0\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80"]
)
def test_text_that_is_no_utf_8_is_refused_in_fields_that_are_ignored_too(field: str, overlong: bytes) -> None:
    literal = b'["%b"]' % overlong if field == "tags" else b'"%b"' % overlong
    assert error_of(raw(field, literal)).startswith("Invalid JSON: ")


@pytest.mark.parametrize("text", ["<script>alert('1')</script>", "\"'`;--", "$where", "a.b.$c", "\u202egnp", "\uffff"])
def test_text_is_text_whatever_it_means_to_others(text: str) -> None:
    fields = {"feedbackId": text, "agentId": text, "userId": text, "messageId": text, "tags": [text], "comment": text}
    assert event_of(wire(**fields)) == REQUIRED | fields


def test_space_around_an_event_is_no_part_of_it() -> None:
    assert event_of(b" \n\t" + wire() + b"\r\n ") == REQUIRED


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    value = orjson.dumps({name: value for name, value in REQUIRED.items() if name != field})
    assert error_of(value) == f"{field}: Field required"


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("wrong", [None, True, [], {}, 1.5])
def test_a_required_field_of_another_type_is_refused(field: str, wrong: object) -> None:
    assert error_of(wire(**{field: wrong})).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["feedbackId", "agentId", "userId"])
@pytest.mark.parametrize("wrong", ["", "x" * 129, "\x00", "ann\x00", "\x00ann", "a\n\x00\nb", 5])
def test_ids_have_1_to_128_characters_and_no_nul(field: str, wrong: object) -> None:
    assert error_of(wire(**{field: wrong})).startswith(f"{field}: ")


@pytest.mark.parametrize("rating", ["", "Positive", "POSITIVE", "positive ", "good", 1, ["positive"]])
def test_a_rating_is_one_of_three(rating: object) -> None:
    assert error_of(wire(rating=rating)) == "rating: Input should be 'positive', 'negative' or 'neutral'"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("score", 0),
        ("score", 6),
        ("score", -1),
        ("score", True),
        ("score", 5.0),
        ("score", "5"),
        ("score", [5]),
        ("score", 10**30),
        ("messageId", "m" * 129),
        ("messageId", 5),
        ("conversationId", "c" * 129),
        ("conversationId", False),
        ("tags", ["t"] * 9),
        ("tags", ["t" * 33]),
        ("tags", [""]),
        ("tags", ["t", None]),
        ("tags", ["t", 5]),
        ("tags", "t"),
        ("tags", {"0": "t"}),
        ("comment", "x" * 2_001),
        ("comment", 5),
        ("comment", ["x"]),
    ],
)
def test_an_optional_field_that_is_wrong_makes_the_event_invalid(field: str, wrong: Any) -> None:
    value = wire(**{field: wrong}) if wrong != 10**30 else raw(field, b"1" + b"0" * 30)
    assert error_of(value).startswith(f"{field}: ")


@pytest.mark.parametrize("literal", [b"1.0", b"1e3", b"-1", b"true", b"NaN", b"Infinity", b'"5"', b"[5]", b"null"])
def test_a_number_that_is_no_count_of_milliseconds_is_no_timestamp(literal: bytes) -> None:
    assert error_of(raw("timestamp", literal)) == TIMESTAMP_RULE


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"5e0", b"0x5", b"05"])
def test_a_number_that_is_no_integer_is_no_score(literal: bytes) -> None:
    assert error_of(raw("score", literal)) != ""


@pytest.mark.parametrize("number", [LAST_MS + 1, 10**15, 1 << 63, 1 << 64, 10**30, 10**300, 10**400])
def test_no_time_lies_beyond_the_year_9999(number: int) -> None:
    """A date can't hold it, and some encoder on the way could not either."""
    assert error_of(raw("timestamp", b"%d" % number)) == TIMESTAMP_RULE
    with pytest.raises(ValueError, match=TIMESTAMP_RULE):
        validate(REQUIRED | {"timestamp": number})


def test_a_number_that_no_parser_takes_is_refused() -> None:
    assert error_of(raw("timestamp", b"9" * 100_000)).startswith("Invalid JSON: ")


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_record_is_called_empty(value: bytes | None) -> None:
    assert one(value) is EMPTY
    assert error_of(value) == "empty"


@pytest.mark.parametrize("value", [b"null", b"[]", b"1", b'"event"', b"true", b"[%b]" % wire()])
def test_json_that_is_no_object_is_refused(value: bytes) -> None:
    assert error_of(value) == "Input should be a valid dictionary"


@pytest.mark.parametrize(
    "value",
    [
        b" ",
        b"{",
        b"\x00",
        b"\xff\xfe",
        wire()[:-1],
        wire() + b",",
        wire() + wire(),
        b"\xef\xbb\xbf" + wire(),  # a byte order mark
        wire().decode().encode("utf-16"),
        b"'" + wire() + b"'",
        raw("extra", b"[" * 100_000 + b"]" * 100_000),
        raw("extra", b'{"a":' * 100_000),
        raw("extra", b'"\\ud800"'),  # half a surrogate pair
        raw("agentId", b'"\\ud800"'),
        raw("agentId", b'"\\udc00\\ud800"'),
        raw("agentId", b'"\xed\xa0\x80"'),  # the same, as bytes
        raw("agentId", b'"a\xff"'),
        raw("agentId", b'"a\nb"'),  # a line break that is not escaped
    ],
)
def test_what_is_no_json_is_refused(value: bytes) -> None:
    assert error_of(value).startswith("Invalid JSON: ")


# Joined by a comma, as elements of one array, these two would be one valid event, and a third next to a whole one.
def test_two_broken_records_do_not_form_a_valid_one() -> None:
    whole = wire()
    comma = whole.index(b",")
    left, right = whole[:comma], whole[comma + 1 :]
    assert orjson.loads(b"[%b,%b]" % (left, right)) == [REQUIRED]
    decoded = decode([left, right, whole])
    assert [isinstance(each, Invalid) for each in decoded] == [True, True, False]


def test_two_events_in_one_record_are_none() -> None:
    decoded = decode([wire() + b"," + wire(), wire()])
    assert [isinstance(each, Invalid) for each in decoded] == [True, False]


# -- RFC 3339 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-31T12:00:00Z", NOON_MS),
        ("2026-01-31t12:00:00z", NOON_MS),
        ("2026-01-31 12:00:00Z", NOON_MS),
        ("2026-01-31T12:00:00+00:00", NOON_MS),
        ("2026-01-31T12:00:00-00:00", NOON_MS),
        ("2026-01-31T13:30:00+01:30", NOON_MS),
        ("2026-01-30T22:00:00-14:00", NOON_MS),
        ("2026-02-01T11:59:00+23:59", NOON_MS),
        ("2026-01-31T12:00:00.5Z", NOON_MS + 500),
        ("2026-01-31T12:00:00.250Z", NOON_MS + 250),
        ("2026-01-31T12:00:00.001999Z", NOON_MS + 1),
        ("2026-01-31T12:00:00.999999999999Z", NOON_MS + 999),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999),
    ],
)
def test_a_timestamp_may_be_rfc_3339(text: str, ms: int) -> None:
    assert event_of(wire(timestamp=text))["timestamp"] == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1700000000000",
        "now",
        "2026-01-31",
        "2026-01-31T12:00:00",  # whose noon?
        "2026-01-31T12:00Z",
        "2026-01-31T12Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "2026-01-31T12:00:00+01",
        "2026-01-31T12:00:00+0100",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+01:00:30",
        "2026-01-31T12:00:00+01:00:30.5",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31_12:00:00Z",
        " 2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "2026-01-31T12:00:00Z 2026-01-31T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:60:00Z",
        "0000-01-01T00:00:00Z",
        "２026-01-31T12:00:00Z",  # noqa: RUF001  # a digit, but none of ASCII's
        "10000-01-01T00:00:00Z",
        "2026-01-31T12:00:00\u221201:00",  # a minus, but not ASCII's
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_any_other_text_is_no_timestamp(text: str) -> None:
    assert error_of(wire(timestamp=text)) == TIMESTAMP_RULE


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.999-00:01", "9999-12-31T00:01:00-23:59"])
def test_a_time_that_its_offset_moves_beyond_the_year_9999_is_no_timestamp(text: str) -> None:
    assert error_of(wire(timestamp=text)) == TIMESTAMP_RULE


@pytest.mark.parametrize(
    "text",
    ["1969-12-31T23:59:59Z", "1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.001Z", "1970-01-01T00:00:00+00:01"],
)
def test_a_time_before_the_epoch_is_no_timestamp(text: str) -> None:
    assert error_of(wire(timestamp=text)) == TIMESTAMP_RULE


# -- batches -------------------------------------------------------------------------------------------------------

_GOOD = [wire(feedbackId=f"f{number}", score=number % 5 + 1) for number in range(5)]


def test_each_record_has_an_answer_in_its_place() -> None:
    values = [_GOOD[0], None, _GOOD[1], b"{", _GOOD[2], b"", wire(score=9), _GOOD[3]]
    decoded = decode(values)
    assert [each if isinstance(each, Invalid) else each.feedback_id for each in decoded] == [
        "f0",
        EMPTY,
        "f1",
        one(b"{"),
        "f2",
        EMPTY,
        Invalid("score: Input should be less than or equal to 5"),
        "f3",
    ]


def test_nothing_decodes_to_nothing() -> None:
    assert list(decode([])) == []


_VALUES: st.SearchStrategy[bytes | None] = st.sampled_from(
    [*_GOOD, None, b"", b"{", b"null", wire(score=9), wire(timestamp="2026-01-31T12:00:00Z"), wire(tags=["a"])]
)


@hypothesis_settings(deadline=None)
@given(st.lists(_VALUES, max_size=12))
def test_a_batch_gives_the_same_as_its_records_one_by_one(values: list[bytes | None]) -> None:
    assert list(decode(values)) == [one(value) for value in values]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=40)  # halves of surrogate pairs too
    | st.sampled_from(["positive", "2026-01-31T12:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
    | st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]+)?[+-][0-2][0-9]:[0-6][0-9]"
    ),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=5,
)


@st.composite
def mutated_events(draw: st.DrawFn) -> bytes:
    """An event with a few fields replaced by any JSON, and then perhaps a few bytes by any bytes."""
    fields = [*REQUIRED, "score", "messageId", "conversationId", "tags", "comment", "extra"]
    changes = draw(st.dictionaries(st.sampled_from(fields), _JSON, max_size=3))
    encoded = json.dumps(REQUIRED | changes).encode()
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(encoded)))
        encoded = encoded[:at] + draw(st.binary(max_size=3)) + encoded[at + draw(st.integers(0, 3)) :]
    return encoded


@hypothesis_settings(deadline=None, max_examples=500)
@given(st.lists(st.none() | st.binary(max_size=200) | mutated_events(), max_size=4))
def test_no_record_makes_decoding_raise_and_what_passes_keeps_the_rules(values: list[bytes | None]) -> None:
    decoded = decode(values)
    assert len(decoded) == len(values)
    for event in decoded:
        if isinstance(event, Invalid):
            assert event.error.isprintable()
            assert event.error
        else:
            for name in (event.feedback_id, event.agent_id, event.user_id):
                assert 1 <= len(name) <= 128
                assert "\x00" not in name
            assert event.rating in {"positive", "negative", "neutral"}
            assert type(event.timestamp) is int
            assert 0 <= event.timestamp <= LAST_MS
            assert event.score in {None, 1, 2, 3, 4, 5}
            assert len(event.tags or ()) <= 8
            assert len(event.comment or "") <= 2_000


@hypothesis_settings(deadline=None, max_examples=500)
@given(mutated_events())
def test_what_the_thorough_reader_takes_the_fast_one_may_not_take_differently(value: bytes) -> None:
    (thorough,) = decode([value, b'"\\u0000"'])[:1]  # a neighbour that has every record looked at with care
    try:
        expected = validate(json.loads(value))
    except ValueError:  # no event, or no text at all
        expected = None
    if expected is not None:
        assert isinstance(thorough, Event)
        assert fields_of(thorough) == {name: given for name, given in expected.items() if given is not None}
    assert decode([value]) == [thorough]


@pytest.mark.parametrize("secret", ["4111 1111 1111 1111", "ann@example.org"])
@pytest.mark.parametrize("field", ["agentId", "rating", "timestamp", "score", "tags", "comment"])
def test_an_error_does_not_repeat_what_the_event_says(field: str, secret: str) -> None:
    assert secret not in error_of(wire(**{field: [secret] * 3_000}))
    assert secret not in error_of(raw(field, b'"%b' % secret.encode()))


# -- events that never were on the wire ----------------------------------------------------------------------------


def test_a_mapping_is_validated_as_strictly_as_a_record() -> None:
    assert validate(REQUIRED | {"timestamp": "2026-01-31T12:00:00Z", "extra": 1}) == REQUIRED | {"timestamp": NOON_MS}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"score": "5"}, "score: Input should be a valid integer"),
        ({"score": True}, "score: Input should be a valid integer"),
        ({"score": 5.0}, "score: Input should be a valid integer"),
        ({"agentId": b"ann"}, "agentId: Input should be a valid string"),
        ({"tags": ("a",)}, "tags: Input should be a valid list"),
        ({"timestamp": 1.0}, TIMESTAMP_RULE),
        ({"timestamp": None}, TIMESTAMP_RULE),
    ],
)
def test_a_wrong_mapping_is_told_in_one_line(wrong: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error) as raised:
        validate(REQUIRED | wrong)
    assert str(raised.value) == error


@pytest.mark.parametrize("event", [None, 5, "event", [REQUIRED], {}, REQUIRED | {"agentId": "\ud800"}])
def test_what_is_no_event_at_all_is_told_in_one_line(event: object) -> None:
    with pytest.raises(ValueError, match=r"^[ -~]+$"):
        validate(event)


def limits_of(schema: dict[str, Any]) -> dict[str, Any]:
    """What a JSON schema allows, by field; as far as both libraries say it in the same way."""
    told = {"type", "minLength", "maxLength", "minimum", "maximum", "maxItems", "enum", "items"}

    def plain(part: dict[str, Any]) -> Any:
        found = {name: plain(value) if name == "items" else value for name, value in part.items() if name in told}
        if "enum" in found:
            found = {"enum": sorted(found["enum"])}
        others = [one for one in (plain(each) for each in part.get("anyOf", ())) if one != {"type": "null"}]
        return others[0] if others else found

    return {name: plain(part) for name, part in schema["properties"].items()} | {"": sorted(schema["required"])}


def test_both_readers_hold_an_event_to_the_same_limits() -> None:
    (fast,) = msgspec.json.schema(Event)["$defs"].values()
    assert limits_of(fast) == limits_of(TypeAdapter(FeedbackEvent).json_schema(mode="validation"))
