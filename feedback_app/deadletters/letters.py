"""A dead letter as a value, and how it is shown. What it holds is hostile: it was written by whoever liked to.

Nothing that a terminal would obey leaves this module: control and formatting characters are always escaped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from feedback_app.core.documents import date
from feedback_app.core.events import Headers, Origin, SourceRecord
from feedback_app.core.headers import Header, foreign, headers_of, origin_of

#: The part of a value that is shown to people.
_SHOWN: Final = 300
_LAST_SHOWN_MS: Final = 253_402_300_799_999

#: A letter's partition and offset on the dead-letter topic: its name.
LetterId = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead-letter topic that is no mark.

    Attributes:
        place: where it stands there.
        origin: where it stood on the input; None where somebody else than a worker wrote it.
        decided_at: when a worker set it aside, in RFC 3339; empty where it does not say.
        headers: its producer's own.
        replayed: whether it was sent again.
    """

    place: Origin
    error: str
    origin: Origin | None
    decided_at: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    replayed: bool

    @classmethod
    def read(cls, record: SourceRecord, *, replayed: bool) -> Self:
        """Read a record, whatever it holds."""
        headers = headers_of(record)
        named = {name: value or b"" for name, value in headers}
        return cls(
            Origin(record.topic() or "", record.partition() or 0, record.offset() or 0),
            named.get(Header.ERROR, b"").decode(errors="replace"),
            origin_of(headers),
            _time(named.get(Header.DECIDED_AT, b"")),
            record.key(),
            record.value(),
            foreign(headers),
            replayed,
        )

    @property
    def id(self) -> LetterId:
        return self.place.partition, self.place.offset

    @property
    def name(self) -> str:
        """How it is named to people."""
        return f"{self.place.partition}@{self.place.offset}"

    def as_json(self) -> str:
        """Return one line of JSON, to be edited and read again by :mod:`feedback_app.deadletters.editing`."""
        fields: dict[str, Any] = {
            "partition": self.place.partition,
            "offset": self.place.offset,
            "error": self.error,
            "origin": self.origin and self.origin._asdict(),
            "decidedAt": self.decided_at or None,
            "replayed": self.replayed,
            **_as_field("key", self.key),
        }
        event = _object(self.value)
        return json_line(fields | (_as_field("value", self.value) if event is None else {"value": event}))

    def as_text(self) -> str:
        """Return some lines for people."""
        origin = f"{self.origin.topic}/{self.origin.partition}@{self.origin.offset}" if self.origin else "unknown"
        state = "replayed" if self.replayed else "not replayed"
        return "\n".join(
            (
                f"{self.name}  {self.decided_at or 'at an unknown time'}  from {printable(origin)}  {state}",
                f"    error  {printable(self.error)}",
                f"    key    {shown(self.key)}",
                f"    value  {shown(self.value)}",
            )
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant.

    Attributes:
        error: a part of the error.
        replayed: whether they must have been replayed; None: no matter.
        ids: which ones; None: all.
    """

    error: str = ""
    replayed: bool | None = None
    ids: Container[LetterId] | None = None

    def __contains__(self, letter: DeadLetter) -> bool:
        return (
            self.error in letter.error
            and self.replayed in {None, letter.replayed}
            and (self.ids is None or letter.id in self.ids)
        )


def json_line(fields: dict[str, Any]) -> str:
    """Return *fields* as JSON without any character that is not printable."""
    line = orjson.dumps(fields).decode()
    if line.isprintable():
        return line
    # All of these stand in texts, where JSON has an escape for them.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def printable(text: str) -> str:
    """Return *text* with an escape in place of each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: bytes | None) -> str:
    """Return a key or a value for people: its beginning, with escapes for what is no text, and how long it is."""
    if value is None:
        return "none"
    text = printable(value[:_SHOWN].decode(errors="backslashreplace"))
    return text if len(value) <= _SHOWN else f"{text}... ({len(value):,} bytes)"


def _as_field(name: str, value: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": b64encode(value or b"").decode()}


def _object(value: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that *value* is: easier to edit than its text; None when it is none."""
    try:
        parsed = orjson.loads(value or b"")
        orjson.dumps(parsed)  # which refuses what is nested deeply
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _time(milliseconds: bytes) -> str:
    if not milliseconds.isdigit() or len(milliseconds) > 15 or int(milliseconds) > _LAST_SHOWN_MS:
        return ""
    return date(int(milliseconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
