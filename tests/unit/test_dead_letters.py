"""Dead letters as values: how they are shown, edited and judged, and what a replay makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from feedback_app.core.events import Headers, Origin
from feedback_app.core.headers import Header, Mark, is_mark, mark_headers, mark_of, place, place_of, replayed_from
from feedback_app.deadletters import replaying
from feedback_app.deadletters.editing import Edit, EditedFile, EditError, Expression, NotEdited, unchanged
from feedback_app.deadletters.judging import Judge, Ready, Refused
from feedback_app.deadletters.letters import DeadLetter, Wanted, json_line, printable, shown
from feedback_app.deadletters.replaying import Totals, replay
from feedback_app.topics import MAX_INPUT_BYTES

LATEST = 2_000
#: What a terminal would obey, or show as something else: escape, the 8-bit CSI, delete, a line that overwrites itself,
#: text from right to left, a line separator, and a character beyond 16 bits that marks the language of a text.
HOSTILE = "\x1b[2J\x9b31m\x7f\r\u202e\u2028\U000e0041"


class Record:
    """A record as the reader has it."""

    def __init__(self, value: bytes | None, headers: Headers, key: bytes | None = b"a", at: int = 7) -> None:
        self._value, self._headers, self._key, self._at = value, headers, key, at

    def topic(self) -> str:
        return "dead"

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return self._at

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Any:
        return self._headers

    def set_headers(self, headers: Headers, /) -> None:
        self._headers = headers


def letter(
    value: bytes | None = b"{}", *, at: int = 7, error: str = "why", replayed: bool = False, key: bytes | None = b"a"
) -> DeadLetter:
    headers = [(Header.ERROR, error.encode()), (Header.DECIDED_AT, b"1000"), ("own", b"1")]
    return DeadLetter.read(Record(value, headers, key, at), replayed=replayed)


def event(**more: Any) -> bytes:
    fields = {"feedbackId": "f", "agentId": "a", "userId": "u", "rating": "positive", "timestamp": 1_000}
    return orjson.dumps({**fields, **more})


# -- headers -------------------------------------------------------------------------------------------------------


def test_a_mark_is_told_by_its_headers() -> None:
    mark = Mark(7, Origin("feedback", 2, 9))
    assert mark_of(mark_headers(mark)) == mark
    assert is_mark(Record(None, mark_headers(mark)))
    assert not is_mark(Record(None, [(Header.ERROR, b"empty")]))
    assert replayed_from([("own", b"x"), (Header.REPLAYED_FROM, b"dead/1@7")]) == Origin("dead", 1, 7)
    assert replayed_from([]) is None


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"dead", b"dead/1", b"dead/1@", b"/1@2", b"a b/1@2", b"dead/-1@2", b"dead/1@2\n", b"dead/\xb2@2"),
        *(b"dead/2147483648@2", b"dead/1@9223372036854775808", b"dead/1@" + b"9" * 5_000),
    ],
)
def test_what_names_no_record_is_refused(value: bytes | None) -> None:
    assert place_of(value) is None
    assert mark_of([(Header.REPLAYED_LETTER, b"7"), (Header.REPLAYED_AS, value)]) is None


@pytest.mark.parametrize("offset", [b"", b"-1", b"x", b"1_0", b"9223372036854775808", b"9" * 5_000])
def test_a_mark_without_a_letter_is_refused(offset: bytes) -> None:
    named = place(Origin("feedback", 0, 0))
    assert mark_of([(Header.REPLAYED_LETTER, offset), (Header.REPLAYED_AS, named)]) is None


# -- how they are shown --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [HOSTILE.encode(), orjson.dumps({"x": HOSTILE}), b"\xff" + HOSTILE.encode()])
def test_nothing_that_a_terminal_obeys_is_shown(value: bytes) -> None:
    made = letter(value, error=HOSTILE, key=HOSTILE.encode())
    for line in (made.as_json(), *made.as_text().split("\n"), printable(HOSTILE), shown(value)):
        assert line.isprintable(), line
    fields = orjson.loads(made.as_json())
    assert (fields["error"], fields["key"]) == (HOSTILE, HOSTILE)


def test_what_can_be_read_stays_readable() -> None:
    line = letter('{"comment":"größer 👍"}'.encode()).as_json()
    assert "größer 👍" in line
    assert json_line({"a": "é"}) == '{"a":"é"}'


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b'{"a":1}', {"value": {"a": 1}}),
        (b"[1]", {"value": "[1]"}),
        (b"", {"value": ""}),
        (None, {"value": None}),
        (b"\xff", {"valueBase64": "/w=="}),
        (b'{"a":' * 500 + b"1" + b"}" * 500, {"value": '{"a":' * 500 + "1" + "}" * 500}),
    ],
)
def test_every_value_comes_back_from_its_line(value: bytes | None, field: dict[str, Any], tmp_path: Path) -> None:
    made = letter(value)
    fields = orjson.loads(made.as_json())
    assert {name: fields[name] for name in field} == field
    path = tmp_path / "edited"
    path.write_text("\n" + made.as_json() + "\n", encoding="utf-8")
    edited = EditedFile(path)
    assert edited(made) == (value or b"")
    assert (list(edited.letters), edited.line_of(made.id)) == ([(1, 7)], 2)
    edited.close()


def test_what_a_letter_does_not_say_is_unknown() -> None:
    headers = [(Header.DECIDED_AT, b"9" * 15), (Header.ORIGIN_OFFSET, b"x")]
    made = DeadLetter.read(Record(b"x" * 1_000, headers), replayed=True)
    assert (made.error, made.origin, made.decided_at) == ("", None, "")
    assert "from unknown  replayed" in made.as_text()
    assert "... (1,000 bytes)" in made.as_text()
    assert letter().decided_at == "1970-01-01T00:00:01.000Z"


def test_which_letters_are_wanted() -> None:
    found, again = letter(error="score: too much"), letter(replayed=True, at=8)
    assert found in Wanted()
    assert found in Wanted(error="score")
    assert found not in Wanted(error="rating")
    assert again not in Wanted(error="score")
    assert [made in Wanted(replayed=True) for made in (found, again)] == [False, True]
    assert [made in Wanted(replayed=False) for made in (found, again)] == [True, False]
    assert [made in Wanted(ids={(1, 8)}) for made in (found, again)] == [False, True]


# -- how they are edited -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "edited"),
    [
        (".", b'{"score":9}'),
        (".score = 5", b'{"score":5}'),
        ("def five: 5; .score = five # a comment", b'{"score":5}'),
        ("select(.score < 3)", None),
        (".score", b"9"),
    ],
)
def test_an_expression_changes_an_event(expression: str, edited: bytes | None) -> None:
    result = Expression(expression)(letter(b'{"score":9}'))
    assert (result is None) is (edited is None)
    assert edited is None or orjson.loads(result or b"") == orjson.loads(edited)


@pytest.mark.parametrize("expression", [".a[", "nothing_such", "", "1) , (2", "import 'x' as x; .", "$unbound"])
def test_what_is_no_expression_is_told_in_one_line(expression: str) -> None:
    with pytest.raises(EditError, match=r"^--edit .*: no jq expression: .") as refused:
        Expression(expression)
    assert "\n" not in refused.value.message
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("expression", "value", "reason"),
    [
        (".a.b", b'{"a":1}', "the expression fails: Cannot index number"),
        ('error("x")', b"{}", "the expression fails: x"),
        ("., .", b"{}", "more than one value"),
        ("range(infinite)", b"{}", "more than one value"),
        (".", b"1 2", "it is no JSON"),
        (".", b"\xff", "it is no JSON"),
        (".", None, "it is no JSON"),
        (".", b"nan", "it is no JSON"),
        (".", b"[" * 1_000 + b"]" * 1_000, "the expression fails"),
    ],
)
def test_a_letter_that_an_expression_can_not_change_is_told(expression: str, value: bytes | None, reason: str) -> None:
    with pytest.raises(NotEdited, match=reason):
        Expression(expression)(letter(value))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"partition":1,"value":""}', "partition and offset"),
        (b'{"partition":true,"offset":1,"value":""}', "partition and offset"),
        (b'{"partition":1,"offset":"1","value":""}', "partition and offset"),
        (b'{"partition":1,"offset":1}', "either value or valueBase64"),
        (b'{"partition":1,"offset":1,"value":"","valueBase64":""}', "either value or valueBase64"),
        (b'{"partition":1,"offset":1,"valueBase64":"*"}', "the value can't be read"),
        (b'{"partition":1,"offset":1,"valueBase64":7}', "the value can't be read"),
        (b'{"partition":1,"offset":0,"value":"again"}', "letter 1@0 comes a second time"),
    ],
)
def test_a_line_that_can_not_be_read_is_told_by_its_number(line: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "edited"
    path.write_bytes(b'{"partition":1,"offset":0,"value":""}\n\n' + line)
    with pytest.raises(EditError, match=rf"^--from-file .*edited', line 3: {problem}") as refused:
        EditedFile(path)
    assert refused.value.exit_code == 2


def test_a_file_that_can_not_be_opened_or_was_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "edited"
    with pytest.raises(EditError, match="No such file"):
        EditedFile(path)
    path.write_bytes(letter(at=7).as_json().encode() + b"\n" + letter(at=8).as_json().encode())
    edited = EditedFile(path)
    path.write_bytes(letter(at=8).as_json().encode() + b"\n" + letter(at=7).as_json().encode())
    with pytest.raises(EditError, match="line 1: the file was changed meanwhile"):
        edited(letter(at=7))
    edited.close()


# -- how they are judged -------------------------------------------------------------------------------------------


def judge(value: bytes | None, edit: Edit = unchanged) -> Ready | Refused | None:
    return Judge(edit, LATEST)(letter(value))


def test_a_valid_event_is_ready_with_its_producers_headers_and_the_letters_name() -> None:
    ready = judge(event(timestamp=LATEST, unknown=1))
    assert isinstance(ready, Ready)
    assert (ready.agent_id, ready.value) == ("a", event(timestamp=LATEST, unknown=1))
    assert list(ready.headers) == [("own", b"1"), (Header.REPLAYED_FROM, b"dead/1@7")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "Invalid JSON"),
        (event(score=5.0), "score"),
        (event(score="5"), "score"),
        (event(agentId=""), "agentId"),
        (event(timestamp=LATEST + 1), "timestamp: lies in the future"),
        (event(comment="x" * 2_001), "comment"),
        (event(unknown="x" * MAX_INPUT_BYTES), "too large"),
    ],
)
def test_what_the_worker_would_refuse_is_refused(value: bytes | None, reason: str) -> None:
    refused = judge(value)
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_what_an_edit_refuses_or_leaves_out() -> None:
    assert judge(event(), Expression("empty")) is None
    refused = judge(event(), Expression("., ."))
    assert refused == Refused(letter(event()), "the expression gives more than one value")


# -- what a replay makes of them -----------------------------------------------------------------------------------


def test_a_replay_sends_in_chunks_what_is_wanted_and_was_not_sent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "CHUNK_LETTERS", 2)
    chunks: list[list[int]] = []
    told: list[Ready | Refused] = []
    looked_at: list[int] = []
    letters = [letter(event(), at=number, replayed=number % 4 == 3) for number in range(8)]
    letters += [letter(b"{", at=8), letter(event(), at=9, error="other"), letter(event(score=1), at=10)]

    def send(chunk: Sequence[Ready]) -> None:
        chunks.append([ready.letter.place.offset for ready in chunk])

    def run(limit: int | None, *, dry: bool = False) -> Totals:
        totals = Totals()
        edit = Expression("select(.score == null)")
        leaving_out: Edit = lambda of: edit(of) if of.value != b"{" else b"{"  # noqa: E731  # one line says it
        replay(
            letters,
            Wanted(error="why"),
            Judge(leaving_out, LATEST),
            totals,
            limit=limit,
            send=None if dry else send,
            tell=told.append,
            report=looked_at.append,
        )
        return totals

    assert run(None) == Totals(sendable=6, sent=6, not_sent=1, left_out=1, already_replayed=2)
    assert chunks == [[0, 1], [2, 4], [5, 6]]
    assert [judged.letter.place.offset for judged in told] == [8]
    assert looked_at == [9]

    assert run(None, dry=True) == Totals(sendable=6, sent=0, not_sent=1, left_out=1, already_replayed=2)
    assert [judged.letter.place.offset for judged in told[1:]] == [0, 1, 2, 4, 5, 6, 8]
    assert len(chunks) == 3

    assert run(3).sent == 3
    assert chunks[3:] == [[0, 1], [2]]


def test_a_chunk_is_bounded_by_its_bytes_too() -> None:
    chunks: list[int] = []
    letters = [letter(event(unknown="x" * 1_000_000), at=number) for number in range(20)]
    totals = Totals()
    replay(
        letters,
        Wanted(),
        Judge(unchanged, LATEST),
        totals,
        limit=None,
        send=lambda chunk: chunks.append(len(chunk)),
        tell=lambda judged: pytest.fail(str(judged)[:200]),
        report=lambda _: None,
    )
    assert totals.sent == sum(chunks) == 20
    assert max(chunks) <= 9


def test_totals_hold_what_was_sent_before_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "CHUNK_LETTERS", 2)
    totals, calls = Totals(), iter([None, RuntimeError("gone")])

    def send(chunk: Sequence[Ready]) -> None:
        if (failure := next(calls)) is not None:
            raise failure

    letters = [letter(event(), at=number) for number in range(6)]
    with pytest.raises(RuntimeError, match="gone"):
        replay(
            letters,
            Wanted(),
            Judge(unchanged, LATEST),
            totals,
            limit=None,
            send=send,
            tell=lambda _: None,
            report=lambda _: None,
        )
    assert (totals.sent, totals.sendable) == (2, 4)
