"""``verify``: read everything, recount it, and only then decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
from confluent_kafka import Message

from feedback_app.core.events import Headers, Origin
from feedback_app.core.headers import headers_of, is_mark, origin_of
from feedback_app.core.state import BEGINNING, OPEN, PARTITION_RECORD_KEY, PartitionRecord
from feedback_app.errors import BrokerError, TopicMismatch
from feedback_app.models import decode
from feedback_app.provisioning import WINDOWS_COLLECTION, inspect_topics, open_database
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.differences import Verdict
from feedback_app.verification.letters import InputRecord, Letter, name
from feedback_app.verification.reading import TopicReader, appended_at
from feedback_app.verification.recount import Recount, Undecidable

#: Between two looks at whether the worker is done.
_LOOK_EVERY_S = 0.5
_DOCUMENTS_AT_ONCE = 5_000
#: By how much the database's clock may be ahead of ours.
_CLOCKS_DIFFER_MS = 60_000

Report = Callable[[str], None]


def verify(
    settings: Settings, wait: float = 0.0, *, until_closed: bool = False, report: Report | None = None
) -> Verdict:
    """Recount the input and compare it with everything that the worker has written.

    Nothing is decided before the group has read both source topics to their end, and unless that was still so after
    everything had been read. A difference is looked at a second time: a transaction becomes visible topic by topic,
    within milliseconds.

    Args:
        wait: for how many seconds to try, when the group is behind or new input keeps coming.
        until_closed: use that time also to wait until no window is open any more.
        report: is told, in a few words, what is being waited for or read. What it raises ends the call.

    Returns:
        The verdict; its ``reason`` says why, if nothing could be decided.

    Raises:
        BrokerError: the broker, or a topic, is not there.
        DatabaseError: the database does not answer.
    """
    _check_topics(settings)
    deadline = time.monotonic() + wait
    with TopicReader(settings) as reader:
        check = _Check(settings, reader, report or _silent)
        while True:
            reason = check.reason_to_wait(until_closed=until_closed)
            if not reason or time.monotonic() >= deadline:
                verdict = check.verdict()
                if not verdict.reason and not verdict.verified:
                    time.sleep(_LOOK_EVERY_S)
                    verdict = check.verdict()
                if not verdict.reason or not check.may_change or time.monotonic() >= deadline:
                    return verdict
            time.sleep(_LOOK_EVERY_S)


class _Check:
    """One call of :func:`verify`: the changelog, which is read on, and the recounts."""

    def __init__(self, settings: Settings, reader: TopicReader, report: Report) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self._reader = reader
        self._report = report
        self._changelog_ends: dict[int, int] = {}
        self._open: dict[bytes, bytes] = {}
        self._records: dict[int, PartitionRecord] = {}
        #: Whether waiting can help: expired input stays expired.
        self.may_change = True

    def reason_to_wait(self, *, until_closed: bool) -> str:
        """Return what has still to happen before a recount makes sense; empty when nothing has."""
        reason, _ = self._behind()
        if not reason and until_closed:
            self._read_changelog()
            if self._open:
                reason = f"{len(self._open)} windows are open"
        if reason:
            self._report(reason)
        return reason

    def verdict(self) -> Verdict:
        """Read everything, and decide if that is possible."""
        if reason := self._expired():
            self.may_change = False
            return Verdict(reason=reason)
        reason, before = self._behind()
        if reason:
            return Verdict(reason=reason)
        # The changelog before the documents: a window that is closed in between is open here, and so compared as that.
        self._read_changelog()
        if reason := self._torn():
            return Verdict(reason=reason)
        try:
            verdict = self._recount()
        except Undecidable as error:
            self.may_change = False
            return Verdict(reason=str(error))
        reason, after = self._behind()
        if not reason and after != before:
            reason = "new input came while it was being recounted"
        return Verdict(reason=reason) if reason else verdict

    def _recount(self) -> Verdict:
        topics, settings = self._topics, self._settings
        recount = Recount(settings.partitions, settings.batch_time_ms, topics.repartition)
        for partition, record in self._records.items():
            recount.add_partition_record(partition, record)
        for key, value in self._open.items():
            recount.add_open(key, value)
        for topic in (topics.late, topics.dead_letter):
            for partition, messages in self._read(topic):
                for message in messages:
                    _add_letter(recount, topic, partition, message, dead=topic == topics.dead_letter)
        for partition, held in self._reader.ranges(topics.repartition).items():
            recount.forwards_start(partition, held.first)
        for partition, messages in self._read(topics.repartition):
            direct = []
            for message in messages:
                origin = origin_of(_headers(message))
                if origin is None:
                    direct.append(message)
                elif recount.needs_forwarded:
                    recount.add_forwarded(origin, message.offset() or 0)
            if direct:
                _add_input(recount, topics.repartition, partition, direct)
        for partition, messages in self._read(topics.feedback):
            _add_input(recount, topics.feedback, partition, messages)
        for _, messages in self._read(topics.aggregates):
            for message in messages:
                for event in _aggregated_events(message.value()):
                    recount.add_aggregated_event(event)
        self._report("reading documents")
        with open_database(settings) as database:
            for document in database[WINDOWS_COLLECTION].find({}, batch_size=_DOCUMENTS_AT_ONCE):
                recount.add_document(document)
        return recount.verdict(self._expired_until())

    def _expired_until(self) -> int:
        """Return up to which end windows may have lost their documents by now."""
        after_s = self._settings.windows_expire_after_s
        if after_s is None:
            return BEGINNING
        return time.time_ns() // 1_000_000 - after_s * 1_000 + _CLOCKS_DIFFER_MS

    def _behind(self) -> tuple[str, dict[str, dict[int, int]]]:
        """Return why the group is not at the end of the source topics, empty if it is, and where these end."""
        found: dict[str, dict[int, int]] = {}
        for topic in self._topics.sources:
            ends: dict[int, int] = {}
            offsets = self._reader.group_offsets(topic)
            unread = 0
            for _, messages in self._reader.read(topic, offsets, ends):
                unread += len(messages)
                if unread > 10_000:
                    return f"the group {self._settings.app_id} has not read {topic} to its end", found
            if unread:
                return f"the group {self._settings.app_id} has {unread} records of {topic} to read", found
            for partition, held in self._reader.ranges(topic).items():
                if held.end > ends[partition]:
                    return f"a transaction is open on {topic}/{partition}", found
            found[topic] = ends
        return "", found

    def _expired(self) -> str:
        topics = self._topics
        for topic in (topics.feedback, topics.late, topics.dead_letter, topics.aggregates):
            for partition, held in self._reader.ranges(topic).items():
                if held.first > 0:
                    return (
                        f"{topic}/{partition} begins at offset {held.first}: what stood before has expired, so the "
                        f"input can't be recounted"
                    )
        return ""

    def _torn(self) -> str:
        """Return where the changelog does not yet show a transaction whose offsets are already visible."""
        for topic in self._topics.sources:
            for partition, offset in self._reader.group_offsets(topic).items():
                record = self._records.get(partition)
                if record is None or record.offsets.get(topic, 0) < offset:
                    return f"the changelog of partition {partition} is behind the group's offset on {topic}"
        return ""

    def _read_changelog(self) -> None:
        for partition, messages in self._reader.read(
            self._topics.changelog, self._changelog_ends, self._changelog_ends
        ):
            for message in messages:
                key, value = message.key() or b"", message.value()
                if key == PARTITION_RECORD_KEY and value is not None:
                    self._records[partition] = PartitionRecord.decode(value)
                elif key[:1] == OPEN:
                    if value is None:
                        self._open.pop(key, None)
                    else:
                        self._open[key] = value

    def _read(self, topic: str) -> Iterator[tuple[int, list[Message]]]:
        count = 0
        for partition, messages in self._reader.read(topic, {}, {}):
            count += len(messages)
            self._report(f"reading {topic}: {count} records")
            yield partition, messages


def _check_topics(settings: Settings) -> None:
    for found in inspect_topics(settings, Topics.of(settings).specs()):
        if not found.partitions:
            raise BrokerError(f"there is no topic {found.name}: has a worker been started with these settings?")
        if found.problem:
            raise TopicMismatch(found.problem)


def _add_letter(recount: Recount, topic: str, partition: int, message: Message, *, dead: bool) -> None:
    headers, where = _headers(message), Origin(topic, partition, message.offset() or 0)
    if dead and is_mark(message):
        recount.add_mark(where, headers)
        return
    letter = Letter.read(partition, message.key(), message.value(), headers, dead=dead)
    if dead:
        recount.add_dead_letter(letter, where)
    else:
        recount.add_letter(letter, name(where))


def _add_input(recount: Recount, topic: str, partition: int, messages: list[Message]) -> None:
    def record_at(index: int) -> InputRecord:
        message = messages[index]
        return InputRecord(message.key(), message.value(), appended_at(message), _headers(message))

    offsets = [message.offset() or 0 for message in messages]
    recount.add_input(topic, partition, offsets, decode([message.value() for message in messages]), record_at)


def _aggregated_events(value: bytes | None) -> Iterable[Mapping[str, Any]]:
    """Return the aggregated events of one record, which holds one window's or lists those of several."""
    try:
        event = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        return ({},)
    windows = event.get("windows")
    return windows if isinstance(windows, list) else (event,)


def _headers(message: Message) -> Headers:
    return [(header, value) for header, value in dict(headers_of(message)).items() if isinstance(value, bytes)]


def _silent(_: str) -> None:
    pass
