"""Which letters are known to have been replayed, and of which nothing is known: without reading the whole topic.

A mark stands anywhere behind its letter. So a letter was not replayed if everything from it to the end of its partition
was looked at, and no mark names it. Of each partition one stretch is remembered.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

#: Marks that are remembered of one partition. A stretch with more is forgotten.
MOST_MARKS: Final = 20_000


@dataclass(slots=True)
class KnownMarks:
    """What was looked at, of one partition: from *low* to *high*, and the letters that marks there name."""

    low: int = 0
    high: int = 0
    letters: set[int] = field(default_factory=set)

    def note(self, low: int, high: int, letters: AbstractSet[int], end: int) -> None:
        """Note that everything from *low* to *high* was looked at, and which letters the marks there name.

        It is added where it touches what is known. Else it takes its place, if it ends where the partition does.
        """
        if end < self.high:  # the topic was made anew
            self.low, self.high, self.letters = low, low, set()
        if low <= self.high and high >= self.low and self.high > self.low:
            self.low, self.high = min(low, self.low), max(high, self.high)
            self.letters |= letters
        elif high == end:
            self.low, self.high, self.letters = low, high, set(letters)
        if len(self.letters) > MOST_MARKS:
            self.low = self.high = 0
            self.letters = set()

    def missing(self, offset: int, end: int) -> tuple[int, int]:
        """Return from where to where to look, to know about letters from *offset* on; an empty stretch if all is
        known."""
        if self.low <= offset <= self.high:
            return self.high, max(end, self.high)
        return offset, end

    def replayed(self, offset: int, end: int) -> bool | None:
        """Say whether a letter was replayed; None where nobody knows."""
        if offset in self.letters:
            return True
        return False if self.low <= offset + 1 and self.high >= end else None
