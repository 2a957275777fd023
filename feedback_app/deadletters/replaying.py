"""Sending dead letters again: each at most once, whatever is killed, repeated or done twice at the same time.

A letter's new record and the mark that it was replayed are in one transaction. The mark stands on the dead-letter
topic, behind its letter. A replay first fences any other one, which settles what that has left open, and reads the
marks only then: so it sees every letter that was ever replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from feedback_app.core.events import Origin
from feedback_app.core.headers import Mark, mark_headers
from feedback_app.core.partitioning import partitioner
from feedback_app.core.transaction import Send
from feedback_app.deadletters.judging import Judge, Ready, Refused
from feedback_app.deadletters.letters import DeadLetter, Wanted
from feedback_app.errors import Aborted, Fenced
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.transport.transactions import TransactionalProducer

#: Letters of one transaction, and their bytes: workers read nothing behind a transaction that is open.
CHUNK_LETTERS: Final = 2_000
_CHUNK_BYTES: Final = 8 << 20

_OUTDONE: Final = "another replay has started, and goes on where this one stops: let one of them finish"


@dataclass(slots=True)
class Totals:
    """What became of the letters that were wanted.

    Attributes:
        sendable: valid, and not replayed before.
        sent: those that were sent: all of them, unless it was a dry run or ended early.
        not_sent: still invalid, or not to be edited so.
        left_out: left out by the expression.
        already_replayed: sent by an earlier replay.
    """

    sendable: int = 0
    sent: int = 0
    not_sent: int = 0
    left_out: int = 0
    already_replayed: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class ReplayProducer(TransactionalProducer):
    """Writes the transactions of a replay; all methods block."""

    def __init__(self, settings: Settings) -> None:
        # One transactional id for all replays of an application: whoever starts one fences whoever started before.
        super().__init__(settings, -1, transactional_id=f"{settings.app_id}-dead-letters", name="the replay")
        self._topics = Topics.of(settings)
        self._partition_of = partitioner(settings.partitions)

    def fence(self) -> None:
        """Fence any other replay, and settle the transaction that it may have left open.

        Raises:
            BrokerError: the broker refused.
            Fenced: a later replay was faster.
        """
        try:
            super().fence()
        except Fenced:
            raise Fenced(_OUTDONE) from None

    def replay(self, letters: Sequence[Ready]) -> None:
        """Send letters and their marks in one transaction.

        Raises:
            Aborted: nothing was sent; the same can be tried again.
            Fenced: nothing was sent, by this replay: another one has started.
            BrokerError: something else went wrong. Whether they were sent is told by the marks.
        """
        try:
            self._write(letters)
            self._commit()
        except Fenced:
            raise Fenced(_OUTDONE) from None

    def _write(self, letters: Sequence[Ready]) -> None:
        records: dict[int, Origin] = {}
        try:
            self._client.begin_transaction()
            for number, ready in enumerate(letters):
                partition = self._partition_of(ready.agent_id)
                send = Send(self._topics.feedback, partition, ready.agent_id.encode(), ready.value, ready.headers)
                self._produce(send, delivered=_Delivery(records, number))
            self._flush()
            # A mark names its record, whose place is known by now.
            for number, ready in enumerate(letters):
                if number not in records:
                    raise Aborted(
                        "the replay: a record was not taken by the broker; nothing of its transaction is sent"
                    )
                headers = mark_headers(Mark(ready.letter.place.offset, records[number]))
                self._produce(Send(self._topics.dead_letter, ready.letter.place.partition, None, None, headers))
            self._flush()
        except KafkaException as error:
            raise self._failed(error) from error
        except BaseException:
            # Ctrl-C, say. Left open, it would keep workers from reading on until the broker aborts it.
            self._abort()
            raise


class _Delivery:
    """Notes where one record was written."""

    def __init__(self, records: dict[int, Origin], number: int) -> None:
        self._records = records
        self._number = number

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._records[self._number] = Origin(message.topic() or "", message.partition() or 0, message.offset() or 0)


def replay(
    letters: Iterable[DeadLetter],
    wanted: Wanted,
    judge: Judge,
    totals: Totals,
    *,
    limit: int | None,
    send: Callable[[Sequence[Ready]], None] | None,
    tell: Callable[[Ready | Refused], None],
    report: Callable[[int], None],
) -> None:
    """Send the *letters* that are *wanted* and were not replayed.

    Args:
        totals: is filled in; also valid when this is interrupted.
        limit: how many letters to try, at most.
        send: sends some letters in one transaction; None: only say what would be sent.
        tell: is called with every letter that can't be sent; without *send*, also with those that would be.
        report: is told how many letters that were not replayed have been looked at.
    """
    chunk: list[Ready] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if chunk and send is not None:
            send(chunk)
            totals.sent += len(chunk)
        chunk.clear()
        size = 0

    for letter in islice(_waiting(letters, wanted, totals, report), limit):
        judged = judge(letter)
        if judged is None:
            totals.left_out += 1
        elif isinstance(judged, Refused):
            totals.not_sent += 1
            tell(judged)
        else:
            totals.sendable += 1
            chunk.append(judged)
            size += judged.size
            if send is None:
                tell(judged)
            if len(chunk) >= CHUNK_LETTERS or size >= _CHUNK_BYTES:
                flush()
    flush()


def _waiting(
    letters: Iterable[DeadLetter], wanted: Wanted, totals: Totals, report: Callable[[int], None]
) -> Iterator[DeadLetter]:
    looked_at = 0
    for letter in letters:
        if letter.replayed:
            totals.already_replayed += letter in wanted
            continue
        looked_at += 1
        if letter in wanted:
            yield letter
        if looked_at % 100 == 0:
            report(looked_at)
    report(looked_at)
