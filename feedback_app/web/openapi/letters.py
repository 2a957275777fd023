"""Bodies about dead letters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from feedback_app.web.openapi.fields import Count, Time

_Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Source(TypedDict):
    """Where a record stood on the input."""

    topic: str
    partition: Count
    offset: Count


class _Letter(TypedDict):
    partition: Count
    offset: Count
    time: Time | None
    error: str
    detail: str
    source: Source | None
    replayed: Annotated[bool | None, Field(description="null where it would take long to find out")]
    size: Annotated[Count, Field(description="bytes of the value")]


class LetterRow(_Letter):
    """A dead letter in a list."""

    preview: Annotated[str, Field(description="its first 200 bytes, what is no UTF-8 replaced")]


class Letter(_Letter):
    """A dead letter, whole."""

    headers: dict[str, str]
    text: Annotated[str, Field(description="its value, what is no UTF-8 replaced")]
    base64: Annotated[_Base64, Field(description="its value, as it came")]
    keyBase64: _Base64 | None


class Letters(TypedDict):
    """Dead letters, newest first."""

    letters: list[LetterRow]
    next: Annotated[str | None, Field(description="`before` for the next page; null where there is none")]
