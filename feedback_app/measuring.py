"""What the parts of a worker tell of their work, and what is asked of them: values only, no library of metrics.

Everything is told once a batch, a pass or a command, never once an event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from feedback_app.errors import Aborted, FeedbackError, Fenced
from feedback_app.tracing import NO_SPAN, Span

if TYPE_CHECKING:
    from feedback_app.closing import DueWindow
    from feedback_app.folding import Tally

TransactionOutcome = Literal["committed", "aborted", "fenced", "failed"]
Collection = Literal["windows", "items"]
Operation = Literal["insert", "replace", "update", "find"]
CommandOutcome = Literal["answered", "failed"]
Source = Literal["feedback", "repartition"]


class Meter(Protocol):
    """Is told of work that is done. Called on the event loop; returns at once and never raises."""

    def folded(self, records: int, tally: Tally) -> None:
        """A batch of *records* is committed; *tally* says what became of those that were not counted."""
        ...

    def fold_took(self, seconds: float) -> None:
        """A batch was decoded, folded and committed, also if that took several tries."""
        ...

    def flushed(self, windows: Sequence[DueWindow], events: int, now_ms: int) -> None:
        """A pass has closed *windows*, at least one, and published *events* records for them."""
        ...

    def transaction(self, outcome: TransactionOutcome, seconds: float) -> None:
        """A transaction has ended."""
        ...

    def restored(self, records: int, seconds: float) -> None:
        """A partition is taken over: fenced, and restored from *records* of its changelog."""
        ...

    def command(
        self, collection: Collection, operation: Operation, operations: int, outcome: CommandOutcome, seconds: float
    ) -> None:
        """The database has answered a command with so many *operations*, or has not."""
        ...

    def items_refused(self, items: int) -> None:
        """The database has refused *items* for good."""
        ...


class NoMeter:
    """Implements :class:`Meter` by forgetting."""

    def folded(self, records: int, tally: Tally) -> None: ...

    def fold_took(self, seconds: float) -> None: ...

    def flushed(self, windows: Sequence[DueWindow], events: int, now_ms: int) -> None: ...

    def transaction(self, outcome: TransactionOutcome, seconds: float) -> None: ...

    def restored(self, records: int, seconds: float) -> None: ...

    def command(
        self, collection: Collection, operation: Operation, operations: int, outcome: CommandOutcome, seconds: float
    ) -> None: ...

    def items_refused(self, items: int) -> None: ...


NO_METER: Final = NoMeter()


@contextmanager
def measured_transaction(meter: Meter, span: Span = NO_SPAN) -> Iterator[None]:
    """Tell *meter* and *span* how the block ended, and after what time. What is cancelled, or a bug, has no outcome."""
    began = time.perf_counter()
    try:
        yield
    except FeedbackError as error:
        outcome: TransactionOutcome = (
            "aborted" if isinstance(error, Aborted) else "fenced" if isinstance(error, Fenced) else "failed"
        )
        meter.transaction(outcome, time.perf_counter() - began)
        span.set(outcome=outcome)
        raise
    meter.transaction("committed", time.perf_counter() - began)
    span.set(outcome="committed")


class Progress(NamedTuple):
    """How far a source topic of a partition is read.

    Attributes:
        handed_out: the offset after the last record that was handed out.
        read_to: the same, or further where only markers of transactions follow.
        end: the topic's end, when it was last heard of; None before.
    """

    handed_out: int
    read_to: int
    end: int | None


def lag(progress: Progress, folded_to: int) -> int | None:
    """Return how many offsets are to be read and folded yet, when everything up to *folded_to* is.

    None while the end is not known. Markers of transactions have offsets of their own: those behind the last record
    are no lag, or a partition that is read to its end would seem to lag for ever.
    """
    if progress.end is None:
        return None
    reached = max(folded_to, progress.read_to) if folded_to >= progress.handed_out else folded_to
    return max(0, progress.end - reached)


@dataclass(frozen=True, slots=True)
class PartitionFigures:
    """A partition that is owned and restored, at the moment of asking.

    Attributes:
        lag: offsets to be read and folded yet, by source topic; without those whose end is not known yet.
        watermark_ms: the watermark; None before the first event.
        cached: windows in memory.
        open: open windows, due ones too.
        due: windows that are due and not closed yet.
        backlog_s: since closing last had nothing left to do.
    """

    partition: int
    lag: Mapping[Source, int]
    watermark_ms: int | None
    cached: int
    open: int
    due: int
    backlog_s: float


class Worker(Protocol):
    """What is asked of a worker when its metrics are read. All answers come from memory."""

    def figures(self) -> Iterator[PartitionFigures]:
        """Yield the partitions that are owned and restored."""
        ...

    def restoring(self) -> int:
        """Return how many partitions are owned and not restored yet."""
        ...

    def not_ready(self) -> str:
        """Say why the worker does not serve yet; empty when it does."""
        ...
