"""What has become of everything that was sent, counted by the suite itself, beside the verifier's recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from feedback_app.provisioning import open_database
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification import Verdict
from feedback_app.verification.reading import TopicReader
from tests.chaos.stream import Expected


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario came out.

    Attributes:
        events: records sent.
        documents: window documents.
        lost: records and aggregated events that are nowhere.
        twice: records and aggregated events that are there once too often.
        stale: windows that never closed.
        problem: what else is wrong; empty when nothing is.
    """

    events: int = 0
    documents: int = 0
    lost: int = 0
    twice: int = 0
    stale: int = 0
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, counted twice, left open, or otherwise wrong."""
        return not (self.lost or self.twice or self.stale or self.problem)


def judge(settings: Settings, expected: Expected, verdict: Verdict, *, by_window: bool) -> Outcome:
    """Compare what is there with what was sent.

    Args:
        verdict: the verifier's.
        by_window: compare window by window; False where the window size has changed: agent by agent.
    """
    ledger = _Ledger()
    size = settings.batch_time_ms

    def place(agent_id: str, start: int) -> Hashable:
        return (agent_id, start) if by_window else agent_id

    wanted: Counter[Hashable] = Counter()
    for (agent_id, timestamp), count in expected.counted.items():
        wanted[place(agent_id, timestamp - timestamp % size)] += count
    found: Counter[Hashable] = Counter()
    with open_database(settings) as database:
        documents = {document["_id"]: document for document in database["feedback_windows"].find()}
        items = {item["_id"] for item in database["feedback"].find({}, {"_id": 1})} if settings.store_items else None
    for document in documents.values():
        start = round(document["windowStart"].timestamp() * 1000)
        found[place(document["agentId"], start)] += document["count"]
    ledger.compare(wanted, found)

    topics = Topics.of(settings)
    with TopicReader(settings) as reader:
        ledger.compare(expected.late, _values(reader, topics.late))
        ledger.compare(expected.invalid, _values(reader, topics.dead_letter))
        ledger.compare_events(documents, _aggregated_events(reader, topics.aggregates))
    problem = verdict.reason or "; ".join(verdict.samples[:3])
    if items is not None and items != expected.items:
        problem = f"{len(expected.items - items)} items are missing, {len(items - expected.items)} are too many"
    return Outcome(expected.records, len(documents), ledger.lost, ledger.twice, verdict.open, problem)


class _Ledger:
    """Adds up what is missing and what is too much."""

    def __init__(self) -> None:
        self.lost = self.twice = 0

    def compare(self, wanted: Counter[Any], found: Counter[Any]) -> None:
        self.lost += (wanted - found).total()
        self.twice += (found - wanted).total()

    def compare_events(self, documents: Mapping[str, Any], events: Counter[tuple[str, int, int]]) -> None:
        """Each closing is published once, and the last one of each document says what the document says."""
        self.twice += sum(count - 1 for count in Counter(event[:2] for event in events.elements()).values())
        said = {(document["_id"], document["revision"], document["count"]) for document in documents.values()}
        self.lost += len(said - events.keys())


def _values(reader: TopicReader, topic: str) -> Counter[bytes | None]:
    return Counter(message.value() for _, messages in reader.read(topic, {}, {}) for message in messages)


def _aggregated_events(reader: TopicReader, topic: str) -> Counter[tuple[str, int, int]]:
    """Return (document's id, revision, count) of every window that was published."""
    found: Counter[tuple[str, int, int]] = Counter()
    for _, messages in reader.read(topic, {}, {}):
        for message in messages:
            body = orjson.loads(message.value() or b"")
            for event in body.get("windows", [body]):
                found[event["_id"], event["revision"], event["count"]] += 1
    return found
