"""What a worker has done, as numbers that can be subtracted, summed over workers and sent to another one.

Everything is read out of the worker's own metrics, so that a page and ``/metrics`` never contradict each other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Annotated, Final, NamedTuple, Self

from msgspec import Meta, Struct
from msgspec.structs import astuple
from prometheus_client import CollectorRegistry

_Count = Annotated[int, Meta(ge=0)]
_Seconds = Annotated[float, Meta(ge=0)]

#: What is kept of the past: a look back of a minute, and two steps of the history.
_KEPT_S: Final = 80.0
#: One a second while somebody watches, and one each ten seconds.
_KEPT: Final = 128


class Counters(Struct, frozen=True, rename="camel"):
    """Counts since the worker started, or within a span. They never go back.

    Attributes:
        flushes: passes that closed windows, and ``flushed`` the windows that they closed.
        batch_age_s: a sum over ``batches``, the windows that were closed for the first time; as ``close_delay_s``.
    """

    counted: _Count = 0
    late: _Count = 0
    dead_letters: _Count = 0
    forwarded: _Count = 0
    windows_closed: _Count = 0
    windows_amended: _Count = 0
    aggregated_events: _Count = 0
    flushes: _Count = 0
    flushed: _Count = 0
    operations: _Count = 0
    commands: _Count = 0
    failed_commands: _Count = 0
    batches: _Count = 0
    batch_age_s: _Seconds = 0.0
    close_delay_s: _Seconds = 0.0

    @property
    def records(self) -> int:
        """Records that were read and committed, whatever became of them."""
        return self.counted + self.late + self.dead_letters + self.forwarded

    def since(self, earlier: Self) -> Self:
        """Return what has been added since *earlier*."""
        return type(self)(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Return the sums over *parts*."""
        return cls(*map(sum, zip(*map(astuple, (cls(), *parts)), strict=True)))


class CounterReader:
    """Reads a worker's counters out of its metrics. Takes some 0.3 ms; belongs to the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = registry.restricted_registry(
            [
                "feedback_records_total",
                "feedback_windows_closed_total",
                "feedback_events_published_total",
                "feedback_flushes_total",
                "feedback_flush_windows_sum",
                "feedback_mongodb_operations_total",
                "feedback_mongodb_command_duration_seconds_count",
                "feedback_batch_age_seconds_count",
                "feedback_batch_age_seconds_sum",
                "feedback_close_delay_seconds_sum",
            ]
        )

    def __call__(self) -> Counters:
        """Return the counters as they are."""
        read: Counter[tuple[str, str]] = Counter()
        for family in self._metrics.collect():
            for sample in family.samples:
                kind = sample.labels.get("outcome") or sample.labels.get("kind", "")
                read[sample.name.removeprefix("feedback_"), kind] += sample.value  # type: ignore[assignment]  # some are times

        def count(name: str, kind: str = "") -> int:
            return int(read[name, kind])

        return Counters(
            counted=count("records_total", "counted"),
            late=count("records_total", "late"),
            dead_letters=count("records_total", "dead_letter"),
            forwarded=count("records_total", "forwarded"),
            windows_closed=count("windows_closed_total", "first"),
            windows_amended=count("windows_closed_total", "amended"),
            aggregated_events=count("events_published_total"),
            flushes=count("flushes_total"),
            flushed=count("flush_windows_sum"),
            operations=count("mongodb_operations_total"),
            commands=count("mongodb_command_duration_seconds_count", "answered"),
            failed_commands=count("mongodb_command_duration_seconds_count", "failed"),
            batches=count("batch_age_seconds_count"),
            batch_age_s=float(read["batch_age_seconds_sum", ""]),
            close_delay_s=float(read["close_delay_seconds_sum", ""]),
        )


class Span(Struct, frozen=True):
    """What was done within so many seconds."""

    seconds: Annotated[float, Meta(gt=0)]
    done: Counters

    def rate(self, done: float) -> float:
        """Return *done*, which is of this span, by second."""
        return done / self.seconds


class _Reading(NamedTuple):
    at: float
    counters: Counters


class Lately:
    """Remembers what the counters were a moment ago; bounded, whoever asks how often.

    Args:
        read: returns the counters as they are.
        monotonic: returns seconds.
    """

    def __init__(self, read: Callable[[], Counters], monotonic: Callable[[], float]) -> None:
        self._read = read
        self._monotonic = monotonic
        self._readings: deque[_Reading] = deque([_Reading(monotonic(), read())], _KEPT)

    def read(self) -> Counters:
        """Return the counters as they are, and remember them."""
        now = _Reading(self._monotonic(), self._read())
        # Never all: what is older than asked for says more than nothing.
        while len(self._readings) > 1 and self._readings[1].at < now.at - _KEPT_S:
            self._readings.popleft()
        # Within a second of the last but one, the last one is not worth its place.
        if len(self._readings) > 1 and now.at - self._readings[-2].at < 1:
            self._readings.pop()
        self._readings.append(now)
        return now.counters

    def over(self, seconds: float) -> Span:
        """Return what was done from the latest reading that is so many *seconds* old, or else the oldest, to the last
        one."""
        last = self._readings[-1]
        earlier = self._readings[0]
        for reading in self._readings:
            if reading.at > last.at - seconds:
                break
            earlier = reading
        # Who has just started is not asked for what he did in a moment.
        return Span(max(last.at - earlier.at, 1.0), last.counters.since(earlier.counters))
