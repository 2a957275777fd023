"""One worker on embedded parts: it counts in every mode, stores, forwards, amends, answers, and ends when told to."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pymongo
import pytest
from confluent_kafka import Message
from pymongo.database import Database

from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.verification import verify
from feedback_app.verification.differences import Verdict
from feedback_app.verification.reading import TopicReader
from tests.services.workers import FORWARDING, QUIET, SHORT_WINDOWS, StartWorker, terminate, until

MakeSettings = Callable[..., Settings]


@pytest.mark.parametrize("mode", ["agent", "global", "hybrid"])
def test_every_batching_mode_counts_exactly(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, mode: str
) -> None:
    ours = settings(embedded_broker, batching_mode=mode, **SHORT_WINDOWS)
    start_worker(ours)
    traffic = Traffic()
    plan = scenario(ours, seed=7, agents=30, late_share=0.02, invalid_share=0.02)
    send(ours, plan, spread(3_000, 60), traffic, lambda sent: None)
    verdict = closed(ours)
    assert (verdict.input, verdict.counted) == (3_000, traffic.counted)
    assert (verdict.late, verdict.dead_lettered) == (traffic.late.total(), traffic.invalid.total())
    assert verdict.late > 0
    assert verdict.dead_lettered > 0

    records = read_all(ours, Topics.of(ours).aggregates)
    windows: list[dict[str, Any]] = []
    for record in records:
        body = orjson.loads(record.value() or b"")
        partition = record.partition()
        if mode == "global":
            assert record.key() == str(partition).encode()
            assert body["partition"] == partition
            windows += body["windows"]
        else:
            assert record.key() == body["agentId"].encode()
            windows.append(body)
        assert all(partition_of(window["agentId"], ours.partitions) == partition for window in windows[-1:])
    if mode == "global":
        assert len(records) < len(windows)
    event_ids = [window["eventId"] for window in windows]
    assert len(event_ids) == len(set(event_ids))

    # The last revision of each window says what its document says.
    final = {window["_id"]: window for window in sorted(windows, key=lambda window: int(window["revision"]))}
    with database_of(ours) as database:
        documents = {document["_id"]: document for document in database.feedback_windows.find()}
    assert {name: window["count"] for name, window in final.items()} == {
        name: document["count"] for name, document in documents.items()
    }
    assert sum(document["count"] for document in documents.values()) == traffic.counted


def test_every_valid_event_is_stored_once_late_ones_too(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | {"store_items": True})
    start_worker(ours)
    traffic = Traffic()
    plan = scenario(ours, seed=8, agents=20, late_share=0.03, invalid_share=0.03)
    send(ours, plan, spread(800, 60), traffic, lambda sent: None)
    verdict = closed(ours)
    assert verdict.late == traffic.late.total() > 0

    topic = Topics.of(ours).feedback
    expected = {}
    invalid = traffic.invalid.copy()
    for record in read_all(ours, topic):
        if invalid[record.value()]:
            invalid[record.value()] -= 1
            continue
        event = orjson.loads(record.value() or b"")
        origin = {"topic": topic, "partition": record.partition(), "offset": record.offset()}
        expected[event["feedbackId"]] = (event["agentId"], event["rating"], origin)
    with database_of(ours) as database:
        stored = {item["_id"]: (item["agentId"], item["rating"], item["origin"]) for item in database.feedback.find()}
    assert stored == expected
    assert len(stored) == traffic.counted + traffic.late.total()


def test_records_on_a_wrong_partition_or_without_a_key_change_no_total(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **FORWARDING)
    start_worker(ours)
    now = time.time_ns() // 1_000_000
    agents = [f"agent-{number}" for number in range(12)]
    sent: Counter[str] = Counter()
    with FeedbackPublisher(ours) as publisher:
        for number in range(600):
            agent = agents[number % len(agents)]
            home = partition_of(agent, ours.partitions)
            key = None if number % 5 == 0 else agent.encode()
            publisher.publish_bytes(key, event(number, agent, now), partition=(home + number) % ours.partitions)
            sent[agent] += 1
    verdict = closed(ours)
    assert (verdict.input, verdict.counted, verdict.late, verdict.dead_lettered) == (600, 600, 0, 0)
    assert counts(ours) == sent
    forwarded = read_all(ours, Topics.of(ours).repartition)
    assert 0 < len(forwarded) < 600
    for record in forwarded:
        agent = orjson.loads(record.value() or b"")["agentId"]
        assert record.key() == agent.encode()
        assert record.partition() == partition_of(agent, ours.partitions)


def test_an_event_that_is_late_but_above_the_floor_reopens_its_window(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """A window closes behind the newest event, and is reopened by one that belongs to it.

    time   0      1      2  ...  10
           first  late   |       newest: the watermark is at 9, the floor far below 0
           `- window ----'
    """
    ours = settings(embedded_broker, **SHORT_WINDOWS | {"retention_ms": 3_600_000, "batch_size": 1})
    start_worker(ours)
    size = ours.batch_time_ms
    base = (time.time_ns() // 1_000_000 - 60_000) // size * size
    document_id = f"agent-1|{base}|{size}"
    with database_of(ours) as database, FeedbackPublisher(ours) as publisher:

        def reaches(**expected: int) -> bool:
            found = database.feedback_windows.find_one({"_id": document_id}) or {}
            return expected.items() <= found.items()

        publisher.publish_bytes(b"agent-1", event(1, "agent-1", base))
        publisher.publish_bytes(b"agent-1", event(2, "agent-1", base + 5 * size))
        until(lambda: reaches(count=1, revision=0), 30)
        assert closed(ours).counted == 2
        publisher.publish_bytes(b"agent-1", event(3, "agent-1", base + size // 2))
        until(lambda: reaches(count=2, revision=1), 30)
    verdict = closed(ours)
    assert (verdict.counted, verdict.late, verdict.documents) == (3, 0, 2)
    events = [orjson.loads(record.value() or b"") for record in read_all(ours, Topics.of(ours).aggregates)]
    about_it = [(body["eventId"], body["revision"], body["count"]) for body in events if body["_id"] == document_id]
    assert about_it == [(f"agent-1:{base}:{size}:0", 0, 1), (f"agent-1:{base}:{size}:1", 1, 2)]


def test_pages(embedded_broker: str, settings: MakeSettings, start_worker: StartWorker) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET | {"web_token": "open-sesame"})
    worker = start_worker(ours)
    allowed = {"Authorization": "Bearer open-sesame"}
    assert worker.get("/health/live") == (200, {"status": "live"})
    assert worker.get("/health/ready") == (200, {"status": "ready", "reasons": []})

    assert worker.get("/feedback/agents/agent-1")[0] == 401
    assert worker.get("/feedback/agents/agent-1", Authorization="Bearer open")[0] == 401
    partition = partition_of("agent-1", ours.partitions)
    recent: dict[str, Any] = {"recent": [], "next": None, "recentError": None}
    nothing = {"agentId": "agent-1", "partition": partition, "open": [], **recent}
    assert worker.get("/feedback/agents/agent-1", **allowed) == (200, nothing)

    now = time.time_ns() // 1_000_000
    with FeedbackPublisher(ours) as publisher:
        for number in range(3):
            publisher.publish_bytes(b"agent-1", event(number, "agent-1", now))
    until(lambda: open_count(worker, "agent-1", **allowed) == 3, 30)
    status, body = worker.get("/feedback/agents/agent-1", **allowed)
    assert (status, body["agentId"], body["partition"]) == (200, "agent-1", partition)
    (window,) = body["open"]
    start = now // ours.batch_time_ms * ours.batch_time_ms
    assert window["_id"] == f"agent-1|{start}|{ours.batch_time_ms}"
    assert (window["count"], window["positive"], window["scoreSum"]) == (3, 3, 15)


def test_sigterm_ends_the_worker_in_time_and_a_restart_reads_nothing_again(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET)
    worker = start_worker(ours)
    now = time.time_ns() // 1_000_000
    with FeedbackPublisher(ours) as publisher:
        for number in range(499):
            publisher.publish_bytes(b"agent-1", event(number, "agent-1", now))
        publisher.flush()
        # By itself: the embedded broker takes the first offset of the last batch for the end of the topic.
        publisher.publish_bytes(b"agent-1", event(499, "agent-1", now))
    until(lambda: open_count(worker, "agent-1") == 500, 30)

    assert terminate(worker) == 0
    logged = len(worker.log.read_text())
    worker.start()
    worker.wait_until_ready()
    assert open_count(worker, "agent-1") == 500

    topic = Topics.of(ours).feedback
    restarted = worker.log.read_text()[logged:]
    starts = re.findall(rf"partition (\d+) is taken over: (\d+) changelog.*'{re.escape(topic)}': (\d+)", restarted)
    with TopicReader(ours) as reader:
        ends = {partition: range_.end for partition, range_ in reader.ranges(topic).items()}
    assert {int(partition): int(start) for partition, _, start in starts} == ends
    assert {int(restored) for _, restored, _ in starts} == {0}
    assert terminate(worker) == 0


def event(number: int, agent_id: str, timestamp: int) -> bytes:
    """Return a valid event."""
    return orjson.dumps(
        {
            "feedbackId": f"feedback-{number}",
            "agentId": agent_id,
            "userId": "user-1",
            "rating": "positive",
            "score": 5,
            "timestamp": timestamp,
        }
    )


def closed(settings: Settings) -> Verdict:
    """Wait until everything is counted and closed; the verifier's recount must agree."""
    verdict = verify(settings, 60, until_closed=True)
    assert verdict.verified, verdict
    assert verdict.open == 0
    return verdict


def counts(settings: Settings) -> Counter[str]:
    """Return what the windows' documents count, by agent."""
    total: Counter[str] = Counter()
    with database_of(settings) as database:
        for document in database.feedback_windows.find():
            total[document["agentId"]] += document["count"]
    return total


def open_count(worker: WorkerProcess, agent_id: str, **headers: str) -> int:
    """Return what an agent's open windows count."""
    status, body = worker.get(f"/feedback/agents/{agent_id}", **headers)
    return sum(window["count"] for window in body["open"]) if status == 200 else -1


def read_all(settings: Settings, topic: str) -> list[Message]:
    """Return all records of a topic, in the order of each partition."""
    with TopicReader(settings) as reader:
        return [record for _, records in reader.read(topic, {}, {}) for record in records]


@contextmanager
def database_of(settings: Settings) -> Iterator[Database[dict[str, Any]]]:
    with pymongo.MongoClient[dict[str, Any]](settings.mongodb_url.get_secret_value()) as client:
        yield client[settings.mongodb_database]
