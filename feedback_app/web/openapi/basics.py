"""Bodies of health, of logins, of events that are sent, and of everything that went wrong."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from feedback_app.web.openapi.fields import Count, Reasons


class Error(TypedDict):
    """What is wrong, in words; it quotes nothing of the request."""

    error: str


class Live(TypedDict):
    """No part of the worker has died or hangs."""

    status: Literal["live"]


class Dead(TypedDict):
    """A part of the worker has died or hangs."""

    status: Literal["dead"]
    reasons: Reasons


class Ready(TypedDict):
    """All assigned partitions are restored; while degraded, something waits."""

    status: Literal["ready", "degraded"]
    reasons: Reasons


class Starting(TypedDict):
    """Partitions are being restored."""

    status: Literal["starting"]
    reason: str


class Login(TypedDict):
    """What is exchanged for a cookie."""

    token: str
    next: NotRequired[Annotated[str, Field(description="of a form: the path below `/feedback/` to go to")]]


class Rejected(TypedDict):
    """An event that is invalid, and was not sent."""

    index: Count
    error: str


class Accepted(TypedDict):
    """All in-sync replicas have the accepted events."""

    accepted: Count
    rejected: list[Rejected]


class NoneValid(Accepted):
    """No event is valid; nothing was sent."""

    error: str


class Unacknowledged(Accepted):
    """The broker has not acknowledged some events; they may have arrived, or still arrive."""

    error: str
    unacknowledged: Annotated[list[Count], Field(description="indexes of events to send again")]
