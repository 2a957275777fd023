"""Replayed dead letters: each mark must belong to one letter, and to the one input record that was sent for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from feedback_app.core.events import Headers, Origin
from feedback_app.core.headers import mark_of, replayed_from
from feedback_app.verification.differences import Differences
from feedback_app.verification.letters import name


class Replays:
    """All marks of replayed letters, by the record that they name.

    A header of an input record proves nothing, since anybody can write one: it is looked at only where a mark points.
    """

    def __init__(self, differences: Differences) -> None:
        self._differences = differences
        self._letters: dict[tuple[str, int], set[int]] = {}
        self._records: dict[Origin, Origin] = {}
        self._unmet: dict[tuple[str, int], dict[int, Origin]] = {}
        #: Letters of which a record was found.
        self.matched = 0

    def add_letter(self, letter: Origin) -> None:
        """Take the place of a letter; a mark comes after its letter."""
        self._letters.setdefault((letter.topic, letter.partition), set()).add(letter.offset)

    def add_mark(self, where: Origin, headers: Headers) -> None:
        """Take a mark that stands at *where*."""
        mark = mark_of(headers)
        if mark is None:
            self._differences.extra(f"mark {name(where)} does not say what was replayed")
            return
        letter, record = where._replace(offset=mark.letter), mark.record
        if letter.offset not in self._letters.get((letter.topic, letter.partition), ()):
            self._differences.extra(f"mark {name(where)} is of {name(letter)}, which is no letter")
            return
        if letter in self._records:
            again = name(self._records[letter])
            self._differences.extra(f"{name(letter)} was replayed as {again}, and again as {name(record)}")
        self._records.setdefault(letter, record)
        unmet = self._unmet.setdefault((record.topic, record.partition), {})
        other = unmet.setdefault(record.offset, letter)
        if other != letter:
            self._differences.extra(f"{name(record)} stands for {name(other)}, and for {name(letter)}")

    def within(self, topic: str, partition: int, offsets: Sequence[int]) -> Iterator[tuple[int, Origin]]:
        """Yield the index, and the letter, of those records of a slice that marks name; each is asked for once."""
        unmet = self._unmet.get((topic, partition))
        if unmet:
            for index, offset in enumerate(offsets):
                if offset in unmet:
                    yield index, unmet.pop(offset)

    def check(self, record: Origin, letter: Origin, headers: Headers) -> None:
        """Check that the record that a mark names says that it is of the letter."""
        if replayed_from(headers) == letter:
            self.matched += 1
        else:
            self._differences.different(f"{name(record)} does not say that it is {name(letter)}, replayed")

    def check_all_met(self) -> None:
        """Report the marks whose records are not there."""
        for (topic, partition), unmet in self._unmet.items():
            for offset, letter in unmet.items():
                record = name(Origin(topic, partition, offset))
                self._differences.missing(f"{record}, which {name(letter)} was replayed as")
