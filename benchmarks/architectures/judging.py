"""What is in the database, compared with what was sent: the application's own recount, and how many are amiss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Message

from benchmarks.workload import Totals
from feedback_app.core.documents import Document
from feedback_app.models import decode
from feedback_app.provisioning import WINDOWS_COLLECTION, open_database
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification import Verdict, verify
from feedback_app.verification.letters import InputRecord
from feedback_app.verification.reading import TopicReader, appended_at
from feedback_app.verification.recount import Recount

_DOCUMENTS_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Loss:
    """How the documents differ from what was sent.

    In a window where some events are lost and as many others counted twice the two can't be told apart by its count;
    its checksum tells that something is amiss, and one of each is counted. So both are lower bounds.

    Attributes:
        events: how many were sent.
        lost: events that no document has counted.
        doubled: times that an event was counted again.
        windows: windows whose documents are not right, or not there.
        verified: whether the recount has found no difference.
        reason: why it could not decide; empty where it could.
    """

    events: int
    lost: int
    doubled: int
    windows: int
    verified: bool
    reason: str = ""

    @property
    def none(self) -> bool:
        return self.verified and not (self.lost or self.doubled)

    def shares(self) -> Iterator[tuple[str, float]]:
        """Yield what is lost and what is counted twice, in per cent of what was sent."""
        yield "lost", 100 * self.lost / max(1, self.events)
        yield "twice", 100 * self.doubled / max(1, self.events)

    def __str__(self) -> str:
        if self.none:
            return "nothing lost, nothing counted twice"
        if self.reason:
            return f"not decided: {self.reason}"
        return f"{self.lost:,} lost, {self.doubled:,} counted twice of {self.events:,}; {self.windows:,} windows wrong"


def compare(counts: Totals, totals: Totals, verdict: Verdict) -> Loss:
    """Return how the documents' *counts* differ from the right *totals*; other windows' documents are left out."""
    lost = doubled = missing = different = 0
    for window, right in totals.items():
        found = counts.get(window, 0)
        lost += max(0, right - found)
        doubled += max(0, found - right)
        missing += not found
        different += 0 < found != right
    # Windows with the right count that are wrong all the same.
    mixed = max(0, verdict.different - different)
    windows = missing + different + mixed
    return Loss(sum(totals.values()), lost + mixed, doubled + mixed, windows, verdict.verified, verdict.reason)


def judge(settings: Settings, totals: Totals, *, ours: bool, wait_s: float = 0.0, until_closed: bool = False) -> Loss:
    """Recount the input, and compare.

    Args:
        ours: this application has written the documents: then its own ``verify`` is asked, which also looks at the
            open windows, the letters and the aggregated events. Else the same recount is made of the documents alone.
            Its workers have to be alive: they may be committing what they have published.
        wait_s: for how long to wait for that; of ours only.
        until_closed: and for windows that are still open.
    """
    verdict = verify(settings, wait_s, until_closed=until_closed) if ours else _recount(settings)
    return compare(stored(settings), totals, verdict)


def stored(settings: Settings) -> Totals:
    """Return the count of each window that has a document."""
    with open_database(settings) as database:
        fields = {"agentId": 1, "windowStart": 1, "count": 1}
        return {
            (found["agentId"], round(found["windowStart"].timestamp() * 1_000)): found["count"]
            for found in database[WINDOWS_COLLECTION].find({}, fields, batch_size=_DOCUMENTS_AT_ONCE)
        }


def documents(settings: Settings) -> list[Document]:
    """Return all window documents."""
    with open_database(settings) as database:
        return list(database[WINDOWS_COLLECTION].find({}, batch_size=_DOCUMENTS_AT_ONCE))


def _recount(settings: Settings) -> Verdict:
    topics = Topics.of(settings)
    recount = Recount(settings.partitions, settings.batch_time_ms, topics.repartition, publishes=False)
    with TopicReader(settings) as reader:
        for partition, messages in reader.read(topics.feedback, {}, {}):
            values = decode([message.value() for message in messages])
            offsets = [message.offset() or 0 for message in messages]
            recount.add_input(topics.feedback, partition, offsets, values, _records(messages))
    for document in documents(settings):
        recount.add_document(document)
    return recount.verdict()


def _records(messages: Sequence[Message]) -> Any:
    def record_at(index: int) -> InputRecord:
        message = messages[index]
        return InputRecord(message.key(), message.value(), appended_at(message))

    return record_at
