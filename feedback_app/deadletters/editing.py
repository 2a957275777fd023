"""What is sent in place of a letter: its value as it is, changed by a jq expression, or taken from an edited file."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, KeysView
from pathlib import Path
from typing import Any

import orjson

from feedback_app.deadletters.letters import DeadLetter, LetterId
from feedback_app.errors import FeedbackError

#: Returns the value to send for a letter; None leaves the letter out. May raise :class:`NotEdited`.
Edit = Callable[[DeadLetter], bytes | None]


class EditError(FeedbackError):
    """What is to be sent can't be told."""

    exit_code = 2


class NotEdited(Exception):
    """This letter can't be edited so; the message says why, and may repeat what the letter holds."""


def unchanged(letter: DeadLetter) -> bytes:
    """Send the letter's own value."""
    return letter.value or b""


class Expression:
    """An edit by a jq expression, applied to the event. Where it gives nothing, the letter is left out.

    Raises:
        EditError: it is no jq expression.
    """

    def __init__(self, text: str) -> None:
        import jq

        try:
            jq.compile(text)
            # One value more than is allowed is enough to know; it may give them without end.
            self._program = jq.compile(f"limit(2; {text}\n)")
        except ValueError as error:
            raise EditError(f"--edit {text!r}: no jq expression: {_reason(error)}") from None

    def __call__(self, letter: DeadLetter) -> bytes | None:
        try:
            event = (letter.value or b"").decode()
            orjson.loads(event)  # jq takes several documents in a row, and words that are no JSON
        except ValueError:
            raise NotEdited("it is no JSON, so no expression can change it") from None
        try:
            values = self._program.input_text(event).text().splitlines()
        except (ValueError, RecursionError) as error:
            raise NotEdited(f"the expression fails: {_reason(error)}") from None
        if len(values) > 1:
            raise NotEdited("the expression gives more than one value")
        return values[0].encode() if values else None


class EditedFile:
    """An edit by a file: lines as ``dead-letters list --json`` writes them, each naming its letter.

    Only where each line begins is kept in memory.

    Raises:
        EditError: a line is none of these, or names a letter that another line has named; with the line's number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[LetterId, tuple[int, int]] = {}
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise EditError(f"--from-file {str(path)!r}: {error.strerror}") from None
        try:
            self._find_lines()
        except BaseException:
            self.close()
            raise

    @property
    def letters(self) -> KeysView[LetterId]:
        """The letters that it names."""
        return self._lines.keys()

    def line_of(self, letter: LetterId) -> int:
        """Return the number of the line that names *letter*."""
        return self._lines[letter][1]

    def __call__(self, letter: DeadLetter) -> bytes:
        at, number = self._lines[letter.id]
        self._file.seek(at)
        named, value = self._parse(self._file.readline(), number)
        if named != letter.id:
            raise self._wrong(number, "the file was changed meanwhile")
        return value

    def close(self) -> None:
        self._file.close()

    def _find_lines(self) -> None:
        at = 0
        for number, line in enumerate(self._file, 1):
            if line.strip():
                letter, _ = self._parse(line, number)
                if letter in self._lines:
                    raise self._wrong(number, f"letter {letter[0]}@{letter[1]} comes a second time")
                self._lines[letter] = at, number
            at += len(line)

    def _parse(self, line: bytes, number: int) -> tuple[LetterId, bytes]:
        try:
            fields: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise self._wrong(number, f"no JSON: {error.msg}") from None
        if not isinstance(fields, dict):
            raise self._wrong(number, "no JSON object")
        partition, offset = fields.get("partition"), fields.get("offset")
        if not (type(partition) is int and type(offset) is int):
            raise self._wrong(number, "partition and offset must say which letter it is")
        if ("value" in fields) is ("valueBase64" in fields):
            raise self._wrong(number, "either value or valueBase64 must say what to send")
        return (partition, offset), self._value(fields, number)

    def _value(self, fields: dict[str, Any], number: int) -> bytes:
        value = fields.get("value")
        try:
            if "valueBase64" in fields:
                return b64decode(fields["valueBase64"], validate=True)
            if isinstance(value, str):
                return value.encode()
            return b"" if value is None else orjson.dumps(value)
        except (ValueError, TypeError):  # of base64, and of orjson where it is nested too deeply
            raise self._wrong(number, "the value can't be read") from None

    def _wrong(self, number: int, what: str) -> EditError:
        return EditError(f"--from-file {str(self._path)!r}, line {number}: {what}")


def _reason(error: BaseException) -> str:
    """Return the first line of what jq says."""
    return (str(error).splitlines() or [type(error).__name__])[0].removeprefix("jq: error: ").rstrip(":")
