"""Tumbling windows, aligned to the epoch. All times are integer milliseconds."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """The half-open interval ``[start, end)`` of one chat agent."""

    agent_id: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def document_id(self) -> str:
        """The ``_id`` of the window's document: the same whoever closes it, and however often."""
        return f"{self.agent_id}|{self.start}|{self.size}"

    def event_id(self, revision: int) -> str:
        """The id of the aggregated event of the window's closing number *revision*."""
        return f"{self.agent_id}:{self.start}:{self.size}:{revision}"


def window_end(timestamp: int, size: int) -> int:
    """Return the end of the window of *size* that holds *timestamp*."""
    return timestamp - timestamp % size + size
