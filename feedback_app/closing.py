"""Closing: due windows become documents, then one transaction (DESIGN, windows out).

A pass has three steps. :func:`plan` describes due windows as they are in committed state; the sink upserts their
documents; and :meth:`Closing.settle`, with the partition's turn held, says what the transaction writes for those that
are still as they were. A crash between the steps repeats the upsert, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import Document, aggregated_event, encode_event, window_document
from feedback_app.core.state import PartitionRecord, agent_bytes_of, closed_key, end_of, window_of
from feedback_app.core.transaction import Send, Transaction

#: An aggregated event of the global mode is split above this size; Kafka's default limit is 1 MiB.
MAX_EVENT_BYTES: Final = 900_000


class CloseState(Protocol):
    """What the close path reads of its partition: committed state only."""

    @property
    def record(self) -> PartitionRecord: ...

    def stored(self, key: bytes) -> bytes | None:
        """Return the value stored under *key*."""
        ...


#: Turns stored windows, keys and values, into their documents and their encoded events.
Describe = Callable[[Sequence[tuple[bytes, bytes]]], Iterable[tuple[Document, bytes]]]


class DueWindow(Struct, frozen=True, gc=False):
    """A window that is due, as it was when the pass began; and its aggregated event."""

    key: bytes
    value: bytes
    event: bytes


def describe(due: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[Document, bytes]]:
    """Describe windows, in Python: see :data:`Describe`."""
    for key, value in due:
        window = window_of(key)
        document = window_document(window, Aggregate.decode(value))
        yield document, encode_event(aggregated_event(window, document))


@dataclass(frozen=True, slots=True)
class CloseRules:
    """The settings that closing depends on."""

    partition: int
    aggregates_topic: str
    #: At most so many documents in one bulk write.
    batch_size: int
    #: True: one aggregated event for the windows of a transaction. False: one for each window.
    joint_events: bool
    #: True: one bulk write for each chat agent. False: bulk writes across agents.
    split_by_agent: bool
    #: In Python, or compiled.
    describe: Describe = describe


def plan(due: Sequence[tuple[bytes, bytes]], describe: Describe = describe) -> tuple[list[DueWindow], list[Document]]:
    """Turn stored open windows, in key order, into the windows of a pass, and their documents.

    The documents are by themselves, since they are large, and nobody needs them once they are stored.
    """
    windows, documents = [], []
    for (key, value), (document, event) in zip(due, describe(due), strict=True):
        windows.append(DueWindow(key, value, event))
        documents.append(document)
    return windows, documents


def bulks(documents: Sequence[Document], rules: CloseRules) -> list[list[Document]]:
    """Return the bulk writes that a pass issues: across agents, or some for each agent."""
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document["agentId"] if rules.split_by_agent else "", []).append(document)
    size = rules.batch_size
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


@dataclass(slots=True)
class Closing:
    """A pass whose documents are stored, and that has its transaction still to come.

    That is its own, or that of a fold which ends before it has its turn: one transaction costs the broker about as much
    as another, whatever is in it.

    Attributes:
        stored: windows whose documents the sink has stored.
        expired: keys of closed records that end at or below the floor: no event can reopen them any more.
        full: it has as many windows as a pass may have. They are piling up.
        committed: what was committed of it; None until then.
    """

    stored: Sequence[DueWindow]
    expired: Sequence[bytes]
    rules: CloseRules
    full: bool = False
    committed: Transaction | None = None

    def settle(self, state: CloseState, joined: Transaction | None = None) -> Transaction | None:
        """Return the transaction that closes the windows; None when nothing is left to do.

        A window that has changed since its document was built is left out: it stays due, and the next pass upserts it
        again. The same goes for one that is gone (another pass closed it).

        Args:
            state: the partition's committed state, which must not change until the transaction is committed.
            joined: a fold's transaction after the same state, which this one is to be committed with: the windows that
                it has counted into have changed, too.
        """
        changing: Container[bytes] = joined.changes if joined else ()
        unchanged = [due for due in self.stored if state.stored(due.key) == due.value and due.key not in changing]
        record = state.record
        transaction = Transaction(changes={}, record=record)
        for due in unchanged:
            transaction.changes[due.key] = None
            # A window is never started anew over a document that exists: either its closed record is kept, or the
            # floor is at or above its end, so that its events are late for good.
            if end_of(due.key) > record.floor:
                transaction.changes[closed_key(due.key)] = due.value
            elif state.stored(closed_key(due.key)) is not None:
                transaction.changes[closed_key(due.key)] = None
        for key in self.expired:
            if end_of(key) <= record.floor:
                transaction.changes.setdefault(key, None)
        transaction.sends.extend(_events(unchanged, self.rules))
        return transaction if transaction.changes else None


def _events(windows: Sequence[DueWindow], rules: CloseRules) -> Iterator[Send]:
    if not rules.joint_events:
        for due in windows:
            yield Send(rules.aggregates_topic, rules.partition, agent_bytes_of(due.key), due.event)
        return
    key = b"%d" % rules.partition
    for part in _parts(due.event for due in windows):
        value = b'{"partition":%d,"windows":[%b]}' % (rules.partition, b",".join(part))
        yield Send(rules.aggregates_topic, rules.partition, key, value)


def _parts(encoded: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut *encoded* into lists of at most :data:`MAX_EVENT_BYTES` each; one that is larger by itself stands alone."""
    part: list[bytes] = []
    size = 0
    for event in encoded:
        if part and size + len(event) > MAX_EVENT_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
        size += len(event) + 1
    if part:
        yield part
