"""What a trace tells of a worker's work, as values only: no library of traces. ``feedback_app.telemetry`` has one.

A span is made once a fold, a pass that closes windows, or a step of either, never once an event or a window. Its
attributes are counts and numbers of partitions: nothing that stands in an event.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol, Self

SpanName = Literal["fold", "items", "close", "upsert", "transaction"]
Attribute = int | str


class Span(Protocol):
    """A step of the work, from entering its block until leaving it."""

    def set(self, **attributes: Attribute) -> None:
        """Say more of the step. Returns at once and never raises."""
        ...

    def event(self, name: str) -> None:
        """Note that something happens now. Returns at once and never raises."""
        ...


class Tracer(Protocol):
    """Is told of work while it is done. Called on the event loop, which it never blocks."""

    def span(
        self, name: SpanName, *, follows: Span | None = None, **attributes: Attribute
    ) -> AbstractContextManager[Span]:
        """Return a block that is a step: a part of the one around it in the same task, if there is one.

        How the block is left is told by the type of the error alone.

        Args:
            follows: a step that this one goes back to without being a part of it.
        """
        ...

    def start(self) -> None:
        """Begin to hand spans on. Those that ended before are lost.

        Raises:
            SettingsError: a setting of the library of traces is wrong.
        """
        ...

    async def stop(self) -> None:
        """Hand on what has ended, but wait no longer than the end of a worker can."""
        ...


class _NoSpan:
    """Implements :class:`Span`, and the block that is one, by forgetting."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def set(self, **attributes: Attribute) -> None: ...

    def event(self, name: str) -> None: ...


class NoTracer:
    """Implements :class:`Tracer` by forgetting."""

    def span(self, name: SpanName, *, follows: Span | None = None, **attributes: Attribute) -> _NoSpan:
        return NO_SPAN

    def start(self) -> None: ...

    async def stop(self) -> None: ...


NO_SPAN: Final = _NoSpan()
NO_TRACER: Final = NoTracer()
