"""Reading the dead-letter topic: which letters there are, and which of them were replayed.

A mark comes behind its letter, so the topic is read twice: once for the marks, then for the letters. Memory holds one
offset a mark, and no letter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from feedback_app.core.events import SourceRecord
from feedback_app.core.headers import headers_of, is_mark, mark_of
from feedback_app.deadletters.letters import DeadLetter, LetterId
from feedback_app.errors import BrokerError
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader

#: A worker's transaction that nobody finishes is aborted by the broker within 60 s, and some that it takes to notice.
_SETTLED_WITHIN_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.2

Report = Callable[[str], None]


@dataclass(slots=True)
class Survey:
    """What the topic holds, up to *ends*.

    Attributes:
        letters: how many letters.
        replayed: by partition, the offsets of the letters that were replayed.
        found: those of the letters looked for that are there.
    """

    letters: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    replayed: dict[int, set[int]] = field(default_factory=dict)
    found: set[LetterId] = field(default_factory=set)

    @property
    def waiting(self) -> int:
        """Letters that were not replayed."""
        return self.letters - sum(map(len, self.replayed.values()))


class LetterTopic:
    """The dead-letter topic, as committed."""

    def __init__(self, settings: Settings, reader: TopicReader) -> None:
        self._reader = reader
        self._topic = Topics.of(settings).dead_letter
        self._partitions = settings.partitions

    def survey(self, report: Report, *, settled: bool, sought: Collection[LetterId] = ()) -> Survey:
        """Read the topic to its end.

        Args:
            settled: wait until no transaction is open on it: committed marks are hidden behind one.
            sought: letters to look for.

        Raises:
            BrokerError: the broker does not answer, or a transaction stays open.
        """
        survey, deadline = Survey(), time.monotonic() + _SETTLED_WITHIN_S
        # By the broker's count, uncommitted records included, and so whatever was committed until now.
        held = self._reader.ranges(self._topic)
        while True:
            starts = dict(survey.ends)
            for partition, messages in self._reader.read(self._topic, starts, survey.ends):
                self._note(survey, partition, messages, sought)
                report(f"reading {self._topic}: {survey.letters:,} letters")
            hidden = [partition for partition, range_ in held.items() if survey.ends[partition] < range_.end]
            if not hidden or not settled:
                return survey
            where = f"{self._topic}/{hidden[0]}"
            if time.monotonic() > deadline:
                raise BrokerError(f"a transaction stays open on {where}, and may hide what was replayed: try again")
            report(f"a transaction is open on {where}")
            time.sleep(_LOOK_EVERY_S)

    def letters(self, survey: Survey) -> Generator[DeadLetter, None, None]:
        """Yield the letters that *survey* has seen, by partition and offset. Close it before the reader.

        Raises:
            BrokerError: the broker does not answer, or refuses.
        """
        for partition in range(self._partitions):
            replayed, end = survey.replayed.get(partition, set()), survey.ends[partition]
            with closing(self._reader.read(self._topic, {}, {}, (partition,))) as batches:
                for message in (message for _, messages in batches for message in messages):
                    offset = message.offset() or 0
                    if offset >= end:
                        break
                    if not is_mark(message):
                        yield DeadLetter.read(message, replayed=offset in replayed)

    @staticmethod
    def _note(survey: Survey, partition: int, messages: Sequence[SourceRecord], sought: Collection[LetterId]) -> None:
        for message in messages:
            if not is_mark(message):
                survey.letters += 1
                if (letter := (partition, message.offset() or 0)) in sought:
                    survey.found.add(letter)
            elif (mark := mark_of(headers_of(message))) is not None:
                survey.replayed.setdefault(partition, set()).add(mark.letter)
