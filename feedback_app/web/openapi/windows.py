"""Bodies about chat agents and their windows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from feedback_app.web.openapi.fields import Count, Milliseconds, Time


class TagCount(TypedDict):
    """How often a tag was given."""

    tag: str
    count: Count


class OpenWindow(TypedDict):
    """A window of one agent, as far as it is counted."""

    _id: Annotated[str, Field(description="`{agentId}|{windowStart}|{windowSize}`")]
    agentId: str
    windowStart: Time
    windowEnd: Time
    windowSize: Milliseconds
    count: Count
    positive: Count
    negative: Count
    neutral: Count
    scoreCount: Count
    scoreSum: Count
    scoreMin: int | None
    scoreMax: int | None
    comments: Count
    tags: list[TagCount]
    otherTags: Count
    firstTimestamp: Time
    lastTimestamp: Time
    revision: Count
    checksum: int


class ClosedWindow(OpenWindow):
    """A window's document in the database."""

    closedAt: Time


class Agent(TypedDict):
    """One agent: its open windows, from its worker's state, and closed ones, from the database."""

    agentId: str
    partition: Count
    open: Annotated[list[OpenWindow], Field(description="oldest first")]
    recent: Annotated[list[ClosedWindow], Field(description="newest first")]
    next: Annotated[str | None, Field(description="`before` for the next page; null where there is none")]
    recentError: Annotated[str | None, Field(description="why `recent` is empty: the database does not answer")]


class AgentRow(TypedDict):
    """What one agent was given in the newest closed windows."""

    agentId: str
    events: Count
    positive: Count
    negative: Count
    neutral: Count
    negativeShare: Annotated[float, Field(ge=0, le=1)]


Agents = TypedDict(
    "Agents",
    {
        "from": Time | None,  # a keyword
        "to": Time | None,
        "agents": list[AgentRow],
        "next": Annotated[int | None, Field(description="`offset` for the next page; null where there is none")],
    },
)
