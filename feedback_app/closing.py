"""Closing: due windows become documents, then one transaction (DESIGN, windows out).

A pass has three steps. :func:`plan` reads due windows from committed state; the sink upserts their documents; and
:func:`settle`, with the partition's turn held, says what the transaction writes for those that are still as they were.
A crash between the steps repeats the upsert, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import Document, aggregated_event, encode_event, window_document
from feedback_app.core.state import PartitionRecord, closed_key, end_of, window_of
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
    """A window that is due, as it was when the pass began; its document, and its aggregated event."""

    key: bytes
    value: bytes
    document: Document
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
    #: True: one aggregated event for the windows of a transaction. False: one for each window.
    joint_events: bool
    #: True: one bulk write for each chat agent. False: bulk writes across agents.
    split_by_agent: bool
    #: In Python, or compiled.
    describe: Describe = describe


def plan(due: Sequence[tuple[bytes, bytes]], describe: Describe = describe) -> list[DueWindow]:
    """Turn stored open windows, in key order, into the windows of a pass."""
    return [DueWindow(*window, *described) for window, described in zip(due, describe(due), strict=True)]


def bulks(windows: Sequence[DueWindow], rules: CloseRules) -> list[list[Document]]:
    """Return the bulk writes that a pass issues: one, or one for each agent."""
    if not rules.split_by_agent:
        return [[due.document for due in windows]] if windows else []
    by_agent: dict[str, list[Document]] = {}
    for due in windows:
        by_agent.setdefault(due.document["agentId"], []).append(due.document)
    return list(by_agent.values())


def settle(
    state: CloseState, stored: Sequence[DueWindow], expired: Iterable[bytes], rules: CloseRules
) -> Transaction | None:
    """Return the transaction that closes the windows whose documents are *stored*; None when nothing is left to do.

    A window that has changed since its document was built is left out: it stays due, and the next pass upserts it
    again. The same goes for one that is gone (another pass closed it).

    Args:
        state: the partition's committed state, which must not change until the transaction is committed.
        stored: windows whose documents the sink has stored.
        expired: keys of closed records that end at or below the floor: no event can reopen them any more.
        rules: see :class:`CloseRules`.
    """
    unchanged = [due for due in stored if state.stored(due.key) == due.value]
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
    for key in expired:
        if end_of(key) <= record.floor:
            transaction.changes.setdefault(key, None)
    transaction.sends.extend(_events(unchanged, rules))
    return transaction if transaction.changes else None


def _events(windows: Sequence[DueWindow], rules: CloseRules) -> Iterator[Send]:
    if not rules.joint_events:
        for due in windows:
            yield Send(rules.aggregates_topic, rules.partition, due.document["agentId"].encode(), due.event)
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
