"""What a part has shown: its rows, and the bars that they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol, Self

from confluent_kafka import KafkaException
from pymongo.errors import PyMongoError

from benchmarks.bench import TOO_FEW, Point
from benchmarks.measuring import ContenderFailed
from feedback_app.errors import FeedbackError


class Row(Protocol):
    """A line of a part's table; a frozen dataclass."""

    @property
    def name(self) -> str: ...

    @property
    def failure(self) -> str:
        """What was not right; empty when everything was."""
        ...

    def cells(self) -> Mapping[str, str]:
        """Return what a table shows, by heading: the same headings for all rows of a part."""
        ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Delays, in ms; of none, all is 0."""

    samples: int = 0
    median_ms: float = 0.0
    p99_ms: float = 0.0

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Return the spread of delays in seconds."""
        delays = sorted(seconds)
        if not delays:
            return cls()

        def at(share: float) -> float:
            return 1_000 * delays[max(0, math.ceil(share * len(delays)) - 1)]

        return cls(len(delays), at(0.5), at(0.99))

    def __str__(self) -> str:
        return f"{self.median_ms:,.0f} / {self.p99_ms:,.0f}" if self.samples else "none"


@dataclass(frozen=True, slots=True)
class Bar:
    """What has to be reached.

    Attributes:
        name: in results.
        what: for people, before the two numbers.
        value: what was measured; None where something failed.
        limit: what it may be at most, or has to be at least.
        at_most: which of the two.
    """

    name: str
    what: str
    value: float | None
    limit: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        reached = "failed" if self.value is None else f"{self.value:,.2f}"
        bound = f"at {'most' if self.at_most else 'least'} {self.limit:g}"
        return f"{self.what}: {reached}, {bound}: {'met' if self.holds else 'NOT MET'}"


@dataclass(frozen=True, slots=True)
class Part:
    """One factor, or one question. *facts* are what the plan needs besides the rows; *sound* is what a row is called
    that has no failure."""

    name: str
    what: str
    rows: Sequence[Row]
    bars: Sequence[Bar] = ()
    facts: Mapping[str, float] | None = None
    sound: str = "right"

    @property
    def right(self) -> bool:
        return bool(self.rows) and not any(row.failure for row in self.rows)

    def lines(self) -> Iterator[str]:
        """Yield the table for a terminal, and the bars."""
        headings = list(self.rows[0].cells())
        widths = [max(len(heading), *(len(row.cells()[heading]) for row in self.rows)) for heading in headings]
        first = max(len(self.name), *(len(row.name) for row in self.rows))
        yield "  ".join([f"{self.name:<{first}}", *map(str.rjust, headings, widths)])
        for row in self.rows:
            cells = map(str.rjust, row.cells().values(), widths)
            yield "  ".join([f"{row.name:<{first}}", *cells, row.failure or self.sound])
        yield from map(str, self.bars)

    def text(self) -> str:
        """Return :meth:`lines` as one text, with an empty line behind them."""
        return "\n".join([*self.lines(), ""])

    def markdown(self) -> Iterator[str]:
        """Yield the same for a page."""
        headings = list(self.rows[0].cells())
        yield f"| {' | '.join([self.what, *headings])} |"
        yield f"|---|{'---|' * len(headings)}"
        for row in self.rows:
            name = f"{row.name}: {row.failure}" if row.failure else row.name
            yield f"| {' | '.join([name, *row.cells().values()])} |"
        yield ""
        for bar in self.bars:
            yield f"{bar}."
            yield ""

    def content(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = [{"name": row.name, **_rounded(asdict(row))} for row in self.rows]  # type: ignore[call-overload]  # a Protocol can't ask for a dataclass
        bars = {bar.name: {"value": bar.value, "limit": bar.limit, "holds": bar.holds} for bar in self.bars}
        return {"what": self.what, "rows": rows, "bars": bars, "facts": dict(self.facts or {})}


#: What a part's own run may raise: shown as a failure of that row, and the others go on.
FAILURES: Final = (ContenderFailed, FeedbackError, KafkaException, PyMongoError)


def failed(error: BaseException) -> str:
    """Return a row's failure: the first line of what went wrong."""
    return f"FAILED: {str(error).partition(chr(10))[0]}"


def attempt(name: str, measure: Callable[[], Point], say: Callable[[str], None]) -> Point:
    """Return what *measure* returns, under *name*, or the row that says why there is nothing."""
    try:
        point = measure()
    except FAILURES as error:
        say(f"{name}: {error}")
        return Point(name, failure=failed(error))
    return point if point.records or point.failure else replace(point, failure=TOO_FEW)


def all_hold(parts: Iterable[Part], prefix: str = "") -> bool:
    """Say whether all bars are met whose names begin with *prefix*."""
    return all(bar.holds for part in parts for bar in part.bars if bar.name.startswith(prefix))


def result(parts: Sequence[Part], *, quick: bool) -> dict[str, Any]:
    """Return what is printed as JSON in the end."""
    return {
        "quick": quick,
        "parts": {part.name: part.content() for part in parts},
        "holds": {bar.name: bar.holds for part in parts for bar in part.bars},
    }


def ratio(value: float, to: float) -> float | None:
    """Return the one by the other; None where one of them was not measured."""
    return value / to if value and to else None


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _rounded(value) if isinstance(value, dict) else round(value, 3) if isinstance(value, float) else value
        for name, value in row.items()
        if name != "began"
    }
