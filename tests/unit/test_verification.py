"""The recount reports every way in which the outputs can contradict the input, and nothing else.

Two partitions; agents whose partition is 0 are called ``a0-*``, the others ``a1-*``. Windows have 1,000 ms:

    feedback/0   @0 valid  @1 valid  @2 invalid  @3 late  @4 in the future  @5 of a1-1, forwarded
    feedback/1   @0 valid
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import pytest

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.documents import Document, aggregated_event, window_document
from feedback_app.core.events import Headers, Invalid, Origin
from feedback_app.core.headers import Header, Mark, mark_headers, place
from feedback_app.core.partitioning import partition_of
from feedback_app.core.state import BEGINNING, OPEN, PartitionRecord, SizeChange, window_key
from feedback_app.core.windows import Window
from feedback_app.cutting import cut
from feedback_app.models import decode
from feedback_app.verification.differences import Verdict
from feedback_app.verification.letters import InputRecord, Letter
from feedback_app.verification.recount import Recount, Undecidable

SIZE = 1_000
NOW = 50_000
FLOOR = 20_000


def agent_of(partition: int, number: int = 1) -> str:
    """Return the id of an agent that belongs to *partition*."""
    names = (f"a{partition}-{suffix}" for suffix in range(10_000))
    return [name for name in names if partition_of(name, 2) == partition][number - 1]


class Record(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class SideRecord(NamedTuple):
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def record(agent: str, timestamp: int, **more: Any) -> Record:
    event = {"feedbackId": "f", "agentId": agent, "userId": "u", "rating": "positive", "timestamp": timestamp, **more}
    return Record(agent.encode(), orjson.dumps(event))


@dataclass
class World:
    """All topics and the database, as plain values, to be spoiled before :meth:`verdict`."""

    feedback: dict[int, list[Record]] = field(default_factory=lambda: {0: [], 1: []})
    direct: dict[int, list[Record]] = field(default_factory=dict)  # written to the repartition topic by somebody
    forwarded: list[tuple[Origin, int]] = field(default_factory=list)
    trimmed: dict[int, int] = field(default_factory=dict)
    late: list[SideRecord] = field(default_factory=list)
    dead: list[SideRecord] = field(default_factory=list)
    marks: list[tuple[int, Headers]] = field(default_factory=list)  # on the dead-letter topic, behind the letters
    records: dict[int, PartitionRecord] = field(default_factory=dict)
    windows: dict[Window, Aggregate] = field(default_factory=dict)
    open: set[Window] = field(default_factory=set)
    documents: list[Document] = field(default_factory=list)
    events: list[Document] = field(default_factory=list)
    appended_at: int | None = NOW

    def send(self, partition: int, sent: Record) -> Origin:
        self.feedback[partition].append(sent)
        return Origin("feedback", partition, len(self.feedback[partition]) - 1)

    def count(self, origin: Origin, sent: Record, size: int = SIZE) -> Window:
        """Count a record as a worker does."""
        (event,) = decode([sent.value])
        assert not isinstance(event, Invalid)
        timestamp = event.timestamp
        window = Window(event.agent_id, timestamp - timestamp % size, size)
        aggregate = self.windows.setdefault(window, Aggregate())
        seed = checksum_seed(origin.topic, origin.partition)
        aggregate.add(event, timestamp, origin_checksum(seed, origin.offset))
        return window

    def set_aside(self, topic: list[SideRecord], origin: Origin, sent: Record, error: str, home: int = 0) -> None:
        headers = [
            (str(Header.ERROR), error.encode()),
            (str(Header.ORIGIN_TOPIC), origin.topic.encode()),
            (str(Header.ORIGIN_PARTITION), b"%d" % origin.partition),
            (str(Header.ORIGIN_OFFSET), b"%d" % origin.offset),
        ]
        topic.append(SideRecord(home, sent.key, sent.value, headers))

    def close(self) -> World:
        """Close all windows but the open ones."""
        for window, aggregate in self.windows.items():
            if window not in self.open:
                document = window_document(window, aggregate)
                self.documents.append({**document, "closedAt": None})
                self.events.append(aggregated_event(window, document))
        return self

    def document(self, window: Window) -> Document:
        return next(document for document in self.documents if document["_id"] == window.document_id)

    def verdict(self, expired_until: int = BEGINNING) -> Verdict:
        recount = Recount(2, SIZE, "repartition")
        for partition, state in self.records.items():
            recount.add_partition_record(partition, state)
        for window in self.open:
            key = window_key(OPEN, window.agent_id, window.end, window.size)
            recount.add_open(key, self.windows[window].encode())
        for side in self.late:
            recount.add_letter(Letter.read(*side, dead=False), "a letter")
        for offset, side in enumerate(self.dead):
            recount.add_dead_letter(Letter.read(*side, dead=True), Origin("dead", side.partition, offset))
        for offset, (partition, headers) in enumerate(self.marks, 100):
            recount.add_mark(Origin("dead", partition, offset), headers)
        for partition, offset in self.trimmed.items():
            recount.forwards_start(partition, offset)
        for origin, offset in self.forwarded:
            if recount.needs_forwarded:
                recount.add_forwarded(origin, offset)
        for name, partitions in (("repartition", self.direct), ("feedback", self.feedback)):
            for partition, sent in partitions.items():
                self._add_input(recount, name, partition, sent)
        for event in self.events:
            recount.add_aggregated_event(event)
        for document in self.documents:
            recount.add_document(document)
        return recount.verdict(expired_until)

    def _add_input(self, recount: Recount, topic: str, partition: int, sent: Sequence[Record]) -> None:
        for start in range(0, len(sent), 3):
            part = sent[start : start + 3]

            def record_at(index: int, part: Sequence[Record] = part) -> InputRecord:
                return InputRecord(part[index].key, part[index].value, self.appended_at, part[index].headers)

            offsets = range(start, start + len(part))
            recount.add_input(topic, partition, offsets, decode([one.value for one in part]), record_at)


VALID = record(agent_of(0), 42_100, score=5, tags=["fast"], comment="!")
VALID_TOO = record(agent_of(0), 42_900, rating="negative")
INVALID = Record(None, b"{")
LATE = record(agent_of(0), 100)
FUTURE = record(agent_of(0), 10**12)
MISPLACED = record(agent_of(1), 42_500)
ELSEWHERE = record(agent_of(1), 43_500)
HOME = Window(agent_of(0), 42_000, SIZE)
ABROAD = Window(agent_of(1), 42_000, SIZE)


@pytest.fixture
def world() -> World:
    """The input of the picture above, treated as it must be."""
    made = World(records={0: PartitionRecord(floor=FLOOR), 1: PartitionRecord(floor=FLOOR)})
    for sent in (VALID, VALID_TOO):
        made.count(made.send(0, sent), sent)
    made.set_aside(made.dead, made.send(0, INVALID), INVALID, "Invalid JSON")
    made.set_aside(made.late, made.send(0, LATE), LATE, "late: the window is final")
    made.set_aside(made.dead, made.send(0, FUTURE), FUTURE, "timestamp: lies in the future")
    made.count(made.send(0, MISPLACED), MISPLACED)
    made.forwarded.append((Origin("feedback", 0, 5), 0))
    made.count(made.send(1, ELSEWHERE), ELSEWHERE)
    return made.close()


def test_what_is_as_it_must_be_is_verified(world: World) -> None:
    verdict = world.verdict()
    assert verdict == Verdict(
        input=7, counted=4, late=1, dead_lettered=2, documents=3, aggregated_events=3, samples=verdict.samples
    )
    assert verdict.samples == ()
    assert verdict.verified
    assert verdict.exit_code == 0
    assert verdict.as_json()["verified"] is True


def test_a_document_that_may_have_expired_is_not_missing_where_its_event_says_the_same(world: World) -> None:
    world.documents.remove(world.document(HOME))
    assert world.verdict(HOME.end - 1).missing == 1
    verdict = world.verdict(HOME.end)
    assert verdict.verified
    assert (verdict.counted, verdict.documents, verdict.expired) == (4, 2, 1)


def test_a_document_that_could_have_expired_and_is_there_is_compared(world: World) -> None:
    world.document(HOME).update(count=1, negative=0)
    assert world.verdict(10**9).different > 0


def test_the_event_of_a_document_that_has_expired_is_compared(world: World) -> None:
    world.documents.remove(world.document(HOME))
    event = next(event for event in world.events if event["_id"] == HOME.document_id)
    for name, wrong in (("count", 1), ("checksum", 1), ("count", "two")):
        right = event[name]
        event[name] = wrong
        assert (world.verdict(HOME.end).different, world.verdict(HOME.end).missing) == (1, 0)
        event[name] = right
    again = {**event, "revision": 1, "eventId": HOME.event_id(1), "count": 1}
    world.events.append(again)
    assert world.verdict(HOME.end).different == 1  # the last one counts
    again["count"] = event["count"]
    assert world.verdict(HOME.end).verified
    world.events.remove(event)
    verdict = world.verdict(HOME.end)
    assert (verdict.missing, verdict.extra) == (1, 1)
    world.events.remove(again)
    assert (world.verdict(HOME.end).missing, world.verdict(HOME.end).extra) == (1, 0)


def test_nothing_at_all_is_verified() -> None:
    assert World().verdict() == Verdict()


def lose_a_document(world: World) -> None:
    world.documents.remove(world.document(HOME))


def lose_a_record(world: World) -> None:
    world.document(HOME).update(count=1, negative=0)


def count_a_record_twice(world: World) -> None:
    origin = Origin("feedback", 1, 0)
    window = world.count(origin, ELSEWHERE)
    world.document(window).update(window_document(window, world.windows[window]))
    world.events[:] = [event for event in world.events if event["_id"] != window.document_id]
    world.events.append(aggregated_event(window, world.document(window)))


def count_another_record_instead(world: World) -> None:
    world.document(HOME)["checksum"] += 1
    next(event for event in world.events if event["_id"] == HOME.document_id)["checksum"] += 1


def miscount_tags(world: World) -> None:
    world.document(HOME)["tags"] = [{"tag": "slow", "count": 1}]


def spoil_tags(world: World) -> None:
    world.document(HOME)["tags"] = {"fast": 1}


def invent_a_document(world: World) -> None:
    world.documents.append({**world.document(HOME), "_id": "ghost|1000|1000"})
    world.events.append({**world.events[0], "eventId": "ghost:1000:1000:0"})


def write_a_stranger_to_the_collection(world: World) -> None:
    world.documents.append({"_id": "settings"})


def lose_an_aggregated_event(world: World) -> None:
    world.events.pop()


def publish_an_aggregated_event_again(world: World) -> None:
    world.events.append(dict(world.events[0]))


def invent_an_aggregated_event(world: World) -> None:
    world.events.append({**world.events[0], "eventId": f"{HOME.agent_id}:42000:1000:7"})


def publish_an_event_without_id(world: World) -> None:
    world.events.append({"count": 1})


def publish_other_counts(world: World) -> None:
    world.events[0]["count"] += 1


def skip_a_revision(world: World) -> None:
    world.document(HOME)["revision"] = 1
    next(event for event in world.events if event["_id"] == HOME.document_id)["eventId"] = HOME.event_id(1)


def lose_a_late_letter(world: World) -> None:
    world.late.clear()


def lose_a_dead_letter(world: World) -> None:
    del world.dead[0]


def write_a_letter_twice(world: World) -> None:
    world.late.append(world.late[0])


def count_a_late_one_as_well(world: World) -> None:
    window = world.count(Origin("feedback", 0, 3), LATE)
    document = window_document(window, world.windows[window])
    world.documents.append(document)
    world.events.append(aggregated_event(window, document))


def put_a_late_one_among_the_dead(world: World) -> None:
    world.dead.append(world.late.pop())


def put_a_dead_one_among_the_late(world: World) -> None:
    world.late.append(world.dead.pop(0))


def call_a_counted_one_late(world: World) -> None:
    lose_a_document(world)
    world.events[:] = [event for event in world.events if event["_id"] != HOME.document_id]
    for offset, sent in enumerate((VALID, VALID_TOO)):
        world.set_aside(world.late, Origin("feedback", 0, offset), sent, "late: the window is final")


def call_the_past_the_future(world: World) -> None:
    world.appended_at = 10**12


def change_a_letter(world: World) -> None:
    world.late[0] = world.late[0]._replace(value=b"{}")


def change_the_key_of_a_letter(world: World) -> None:
    world.dead[0] = world.dead[0]._replace(key=b"other")


def write_a_letter_elsewhere(world: World) -> None:
    world.late[0] = world.late[0]._replace(partition=1)


def invent_a_letter(world: World) -> None:
    world.set_aside(world.dead, Origin("feedback", 1, 99), INVALID, "Invalid JSON")


def write_a_letter_without_origin(world: World) -> None:
    world.dead.append(SideRecord(0, None, b"{", []))


@pytest.mark.parametrize(
    ("spoil", "differences"),
    [
        (lose_a_document, {"missing": 1, "extra": 1}),  # its aggregated event is left
        (lose_a_record, {"different": 2}),  # the document, and its event
        (count_a_record_twice, {"different": 1}),
        (count_another_record_instead, {"different": 1}),
        (miscount_tags, {"different": 1}),
        (spoil_tags, {"different": 1}),
        (invent_a_document, {"extra": 1}),
        (write_a_stranger_to_the_collection, {"extra": 1}),
        (lose_an_aggregated_event, {"missing": 1}),
        (publish_an_aggregated_event_again, {"extra": 1}),
        (invent_an_aggregated_event, {"extra": 1}),
        (publish_an_event_without_id, {"extra": 1}),
        (publish_other_counts, {"different": 1}),
        (skip_a_revision, {"missing": 1}),
        (lose_a_late_letter, {"missing": 1}),  # so it must have been counted, and its window has no document
        (lose_a_dead_letter, {"missing": 1}),
        (write_a_letter_twice, {"extra": 1}),
        (count_a_late_one_as_well, {"extra": 1}),
        (put_a_late_one_among_the_dead, {"different": 1}),
        (put_a_dead_one_among_the_late, {"different": 1}),
        (call_a_counted_one_late, {"different": 2}),
        (call_the_past_the_future, {"different": 1}),
        (change_a_letter, {"different": 1}),
        (change_the_key_of_a_letter, {"different": 1}),
        (write_a_letter_elsewhere, {"different": 1}),
        (invent_a_letter, {"extra": 1}),
        (write_a_letter_without_origin, {"extra": 1}),
    ],
)
def test_every_contradiction_is_reported(
    world: World, spoil: Callable[[World], None], differences: dict[str, int]
) -> None:
    spoil(world)
    verdict = world.verdict()
    found = {"missing": verdict.missing, "extra": verdict.extra, "different": verdict.different}
    assert {kind: count for kind, count in found.items() if count} == differences, verdict.samples
    assert len(verdict.samples) == sum(differences.values())
    assert not verdict.verified
    assert verdict.exit_code == 1


def test_an_open_window_stands_for_its_document() -> None:
    world = World(open={HOME})
    for sent in (VALID, VALID_TOO):
        world.count(world.send(0, sent), sent)
    verdict = world.close().verdict()
    assert (verdict.counted, verdict.open, verdict.documents, verdict.verified) == (2, 1, 0, True)

    # Reopened: the document and the event of revision 0 are those of the first closing.
    first = Aggregate()
    world.documents.append(window_document(HOME, first))
    world.events.append(aggregated_event(HOME, world.documents[0]))
    world.windows[HOME].revision = 1
    assert world.verdict().verified
    # Closed while we were reading.
    world.events.append(aggregated_event(HOME, window_document(HOME, world.windows[HOME])))
    assert world.verdict().verified

    world.events.pop(0)
    assert world.verdict().missing == 1


def test_an_open_window_is_compared_too() -> None:
    world = World(open={HOME})
    world.count(world.send(0, VALID), VALID)
    world.windows[HOME].positive += 1
    assert world.verdict().different == 1
    world.feedback[0].clear()
    assert world.verdict().extra == 1


def test_a_forwarded_letter_has_its_agents_key_and_lies_on_the_agents_partition(world: World) -> None:
    sent = record(agent_of(1), 100)._replace(key=None)
    world.set_aside(world.late, world.send(0, sent), Record(agent_of(1).encode(), sent.value), "late", home=1)
    verdict = world.verdict()
    assert verdict.verified, verdict.samples
    assert verdict.late == 2


@pytest.mark.parametrize(
    ("key", "value"), [(b"k", b"{" * 3_000_000), (b"k" * 3_000_000, b"{"), (None, b"{" * 1_100_000)]
)
def test_a_letter_that_was_cut_must_be_what_the_cut_leaves(key: bytes | None, value: bytes) -> None:
    kept = cut(key, value, ())
    assert kept.truncated
    for spoiled, different in (
        (kept.value, 0),
        (value if kept.value != value else b"[", 1),
        ((kept.value or b"")[:-1], 1),
    ):
        world = World()
        origin = world.send(0, Record(key, value))
        world.set_aside(world.dead, origin, Record(kept.key, spoiled), "too large")
        assert world.verdict().different == different
    world = World()
    world.set_aside(world.dead, world.send(0, Record(key, value)), Record(b"other", kept.value), "too large")
    assert world.verdict().different == 1


def test_a_record_that_somebody_wrote_to_the_repartition_topic_is_its_own_origin(world: World) -> None:
    world.direct = {1: [record(agent_of(1), 99_000), INVALID]}
    assert world.verdict().missing == 2
    window = world.count(Origin("repartition", 1, 0), world.direct[1][0])
    document = window_document(window, world.windows[window])
    world.documents.append(document)
    world.events.append(aggregated_event(window, document))
    world.set_aside(world.dead, Origin("repartition", 1, 1), INVALID, "Invalid JSON", home=1)
    verdict = world.verdict()
    assert verdict.verified, verdict.samples
    assert verdict.input == 9


def test_which_tags_are_named_does_not_matter_when_there_are_too_many() -> None:
    world = World()
    for part in range(6):
        sent = record(agent_of(0), 42_000 + part, tags=[f"tag-{part}-{number}" for number in range(8)])
        world.count(world.send(0, sent), sent)
    world.close()
    named = world.documents[0]["tags"]
    world.documents[0]["tags"] = [{"tag": f"tag-5-{number}", "count": 1} for number in range(8)] + named[8:]
    assert world.documents[0]["otherTags"] == 16
    assert world.verdict().verified
    world.documents[0]["otherTags"] = 15
    assert world.verdict().different == 1


def test_an_agents_id_may_look_like_a_documents_id() -> None:
    agent = next(name for name in (f"a|1|{number}" for number in range(99)) if partition_of(name, 2) == 0)
    world = World()
    sent = record(agent, 42_000)
    world.count(world.send(0, sent), sent)
    assert world.close().verdict().verified


# The window size was changed from 1,000 to 700 ms: on partition 1 from feedback@1 and repartition@2 on.
CHANGED = PartitionRecord(
    floor=FLOOR,
    history=(SizeChange(SIZE, {}), SizeChange(700, {"feedback": 1, "repartition": 2})),
)


def changed_sizes(*counted_at: int) -> World:
    """Return a world with records of partition 1, of which those of *counted_at* were forwarded from partition 0."""
    world = World(records={1: CHANGED})
    for offset, size in ((0, SIZE), (1, 700)):
        sent = record(agent_of(1), 42_000 + offset)
        world.count(world.send(1, sent), sent, size)
    for offset in counted_at:
        sent = record(agent_of(1), 44_000 + offset)
        origin = world.send(0, sent)
        world.forwarded.append((origin, offset))
        world.count(origin, sent, SIZE if offset < 2 else 700)
    return world.close()


def test_records_are_counted_again_by_the_size_of_their_time() -> None:
    verdict = changed_sizes(0, 1, 2, 3).verdict()
    assert verdict.verified, verdict.samples
    assert verdict.counted == 6


@pytest.mark.parametrize("trimmed", [1, 2])
def test_what_was_trimmed_before_the_change_was_counted_by_the_first_size(trimmed: int) -> None:
    world = changed_sizes(0, 1, 2)
    world.forwarded = world.forwarded[trimmed:]
    world.trimmed = {1: trimmed}
    assert world.verdict().verified


def test_what_was_trimmed_after_the_change_leaves_nothing_to_decide() -> None:
    world = changed_sizes(0, 1, 2, 3)
    world.forwarded = world.forwarded[3:]
    world.trimmed = {1: 3}
    with pytest.raises(Undecidable, match="can't be told"):
        world.verdict()


def test_a_size_that_no_record_saw_is_no_reason_not_to_decide() -> None:
    world = changed_sizes()
    world.records[1] = PartitionRecord(
        history=(SizeChange(300, {}), SizeChange(SIZE, {}), SizeChange(700, {"feedback": 1}))
    )
    sent = record(agent_of(1), 44_000)
    world.send(0, sent)
    world.trimmed = {1: 1}
    world.documents.clear()
    world.events.clear()
    world.count(Origin("feedback", 0, 0), sent, 700)  # all that was forwarded came after the change
    verdict = world.close().verdict()
    assert verdict.verified, verdict.samples


def test_a_letter_without_readable_headers_names_no_origin() -> None:
    headers: Headers = [
        (Header.ORIGIN_TOPIC, b"feedback"),
        (Header.ORIGIN_PARTITION, b"x"),
        (Header.ORIGIN_OFFSET, b"1"),
    ]
    assert Letter.read(0, None, b"", headers, dead=True) is None


def test_samples_are_few_and_a_reason_decides_nothing() -> None:
    world = World()
    for number in range(50):
        world.send(0, record(agent_of(0, number + 1), 42_000))
    verdict = world.verdict()
    assert (verdict.missing, len(verdict.samples)) == (50, 10)
    undecided = Verdict(reason="the group is behind")
    assert (undecided.verified, undecided.exit_code) == (False, 2)


# Dead letter 0 of the picture, dead/0@0, was replayed: as feedback/1@1.
LETTER = Origin("dead", 0, 0)
REPLAYED = Origin("feedback", 1, 1)
SENT_AGAIN = record(agent_of(1), 44_000)._replace(headers=[(Header.REPLAYED_FROM, place(LETTER))])


@pytest.fixture
def replayed(world: World) -> World:
    """The picture, with a letter that was replayed."""
    window = world.count(world.send(1, SENT_AGAIN), SENT_AGAIN)
    document = window_document(window, world.windows[window])
    world.documents.append(document)
    world.events.append(aggregated_event(window, document))
    world.marks.append((0, mark_headers(Mark(0, REPLAYED))))
    return world


def test_a_replayed_letter_and_its_record_are_both_there(replayed: World) -> None:
    verdict = replayed.verdict()
    assert verdict.verified, verdict.samples
    assert (verdict.input, verdict.dead_lettered, verdict.replayed) == (8, 2, 1)
    assert verdict.as_json()["replayed"] == 1


def test_a_replayed_record_may_be_a_dead_letter_again_and_be_replayed_again(replayed: World) -> None:
    again = Record(None, b"[]", [(Header.REPLAYED_FROM, place(Origin("dead", 0, 1)))])
    replayed.set_aside(replayed.dead, replayed.send(1, again), again, "no object", home=1)
    replayed.marks.append((0, mark_headers(Mark(1, Origin("feedback", 1, 2)))))
    last = SENT_AGAIN._replace(headers=[(Header.REPLAYED_FROM, place(Origin("dead", 1, 2)))])
    window = replayed.count(replayed.send(1, last), last)
    replayed.document(window).update(window_document(window, replayed.windows[window]))
    replayed.events[-1] = aggregated_event(window, replayed.document(window))
    replayed.marks.append((1, mark_headers(Mark(2, Origin("feedback", 1, 3)))))
    verdict = replayed.verdict()
    assert verdict.verified, verdict.samples
    assert verdict.replayed == 3


def test_what_a_record_says_of_itself_changes_nothing(world: World) -> None:
    for name in (Header.REPLAYED_FROM, Header.REPLAYED_LETTER, Header.REPLAYED_AS):
        world.feedback[0][1] = world.feedback[0][1]._replace(headers=[(name, place(LETTER))])
        verdict = world.verdict()
        assert (verdict.verified, verdict.replayed) == (True, 0), verdict.samples


def mark(world: World, letter: int, as_record: Origin, partition: int = 0) -> None:
    world.marks.append((partition, mark_headers(Mark(letter, as_record))))


@pytest.mark.parametrize(
    ("spoil", "differences", "words"),
    [
        (
            lambda world: mark(world, 0, Origin("feedback", 0, 0)),
            {"extra": 1, "different": 1},
            "dead/0@0 was replayed as feedback/1@1, and again as feedback/0@0",
        ),
        (
            lambda world: mark(world, 0, REPLAYED),
            {"extra": 1},
            "dead/0@0 was replayed as feedback/1@1, and again as feedback/1@1",
        ),
        (
            lambda world: mark(world, 1, REPLAYED),
            {"extra": 1},
            "feedback/1@1 stands for dead/0@0, and for dead/0@1",
        ),
        (
            lambda world: mark(world, 1, Origin("feedback", 1, 99)),
            {"missing": 1},
            "feedback/1@99, which dead/0@1 was replayed as",
        ),
        (
            lambda world: mark(world, 1, Origin("elsewhere", 0, 0)),
            {"missing": 1},
            "elsewhere/0@0, which dead/0@1 was replayed as",
        ),
        (
            lambda world: mark(world, 1, Origin("feedback", 0, 0)),
            {"different": 1},
            "feedback/0@0 does not say that it is dead/0@1, replayed",
        ),
        (
            lambda world: mark(world, 99, Origin("feedback", 0, 0)),
            {"extra": 1},
            "mark dead/0@101 is of dead/0@99, which is no letter",
        ),
        (
            lambda world: mark(world, 0, Origin("feedback", 0, 0), partition=1),
            {"extra": 1},
            "mark dead/1@101 is of dead/1@0, which is no letter",
        ),
        (
            lambda world: mark(world, 100, Origin("feedback", 0, 0)),  # the mark before it
            {"extra": 1},
            "mark dead/0@101 is of dead/0@100, which is no letter",
        ),
        (
            lambda world: world.marks.append((0, [(Header.REPLAYED_LETTER, b"1")])),
            {"extra": 1},
            "mark dead/0@101 does not say what was replayed",
        ),
    ],
)
def test_every_contradiction_of_a_replay_is_reported(
    replayed: World, spoil: Callable[[World], None], differences: dict[str, int], words: str
) -> None:
    spoil(replayed)
    verdict = replayed.verdict()
    found = {"missing": verdict.missing, "extra": verdict.extra, "different": verdict.different}
    assert {kind: count for kind, count in found.items() if count} == differences, verdict.samples
    assert any(line.endswith(words) for line in verdict.samples), verdict.samples
    assert verdict.exit_code == 1
