"""What a worker's ``/metrics`` say is what happened to it."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from feedback_app.connections import librdkafka_config
from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.measuring import lag
from feedback_app.metrics import Metrics
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.sinks import SinkUnavailable
from feedback_app.sinks.mongodb import MongoSink
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.transport.source import PartitionSource
from tests.functional.test_worker import closed, event, read_all
from tests.services.metrics import Scrape
from tests.services.workers import FORWARDING, QUIET, SHORT_WINDOWS, StartWorker, terminate, until

MakeSettings = Callable[..., Settings]

_PARTITION_GAUGES = [
    "feedback_lag_records",
    "feedback_watermark_lag_seconds",
    "feedback_cached_windows",
    "feedback_open_windows",
    "feedback_due_windows",
    "feedback_close_backlog_seconds",
]


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """A database for this test alone, to be killed and started again."""
    with EmbeddedDatabase(tmp_path / "database") as server:
        yield server


@pytest.mark.parametrize("mode", ["hybrid", "global"])
def test_the_numbers_are_those_of_what_was_sent(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, mode: str
) -> None:
    ours = settings(embedded_broker, batching_mode=mode, **FORWARDING)
    worker = start_worker(ours)
    traffic = Traffic()
    plan = scenario(ours, seed=7, agents=30, late_share=0.02, invalid_share=0.02)
    send(ours, plan, spread(3_000, 60), traffic, lambda sent: None)
    misplaced = misplace(ours, 60)
    verdict = closed(ours)
    assert verdict.counted == traffic.counted + 60
    assert verdict.late > 0
    assert verdict.dead_lettered > 0
    until(lambda: Scrape.of(worker).total("feedback_due_windows") == 0, 30)
    read = Scrape.of(worker)

    records = {
        outcome: read.total("feedback_records_total", outcome=outcome)
        for outcome in ("counted", "late", "dead_letter", "forwarded")
    }
    assert records == {
        "counted": verdict.counted,
        "late": traffic.late.total(),
        "dead_letter": traffic.invalid.total(),
        "forwarded": misplaced,
    }
    assert read.total("feedback_fold_records_sum") == 3_060 + misplaced == sum(records.values())
    assert read.total("feedback_fold_records_count") == read.total("feedback_fold_duration_seconds_count") > 0
    for source in ("feedback", "repartition"):
        assert read.total("feedback_lag_records", source=source) == 0

    published = read_all(ours, Topics.of(ours).aggregates)
    windows = [
        window
        for record in published
        for body in [orjson.loads(record.value() or b"")]
        for window in (body["windows"] if mode == "global" else [body])
    ]
    first = [window for window in windows if window["revision"] == 0]
    assert read.total("feedback_events_published_total") == len(published)
    assert read.total("feedback_windows_closed_total", kind="first") == len(first) == verdict.documents
    assert read.total("feedback_windows_closed_total", kind="amended") == len(windows) - len(first)
    assert read.total("feedback_window_events_count") == len(first)
    assert read.total("feedback_window_events_sum") == sum(window["count"] for window in first)
    assert read.total("feedback_flush_windows_sum") == len(windows)
    flushes = read.total("feedback_flushes_total")
    assert flushes == read.total("feedback_flush_windows_count")
    assert 1 <= flushes <= len(windows)
    # From the first event to the closing it can't be less than from the end of the window, nor a window's size more.
    delay, age = (read.total(f"feedback_{name}_seconds_sum") for name in ("close_delay", "batch_age"))
    assert 0 < delay < age < delay + len(first) * ours.batch_time_ms / 1000

    inserted = read.total("feedback_mongodb_operations_total", collection="windows", operation="insert")
    assert inserted >= len(windows)
    assert read.total("feedback_mongodb_operations_total", collection="items") == 0
    commands = "feedback_mongodb_command_duration_seconds_count"
    assert read.total(commands, outcome="failed") == 0
    assert read.total(commands, collection="windows", outcome="answered") >= max(
        flushes, len(windows) / ours.batch_size
    )

    committed = read.total("feedback_transactions_total", outcome="committed")
    # A fold takes a pass along that waits for its turn.
    assert committed >= max(flushes, read.total("feedback_fold_records_count"))
    assert read.total("feedback_transaction_duration_seconds_count") == read.total("feedback_transactions_total")
    assert read.total("feedback_restore_duration_seconds_count") == ours.partitions
    assert [read.total(f"feedback_{name}") for name in ("ready", "live", "sink_down", "retries_total")] == [1, 1, 0, 0]
    assert read.total("feedback_build_info", mode=mode) == 1
    for gauge in _PARTITION_GAUGES:
        assert read.partitions(gauge) == {0, 1}, gauge


def test_open_and_cached_windows_are_told(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """More are open than there is room for in memory."""
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET | {"max_batches": 12})
    agents = 60
    ensure_topics(ours, Topics.of(ours).specs())
    with FeedbackPublisher(ours) as publisher:
        for number in range(agents):
            publisher.publish_bytes(b"%d" % number, event(number, f"agent-{number}", now()))
    worker = start_worker(ours)
    until(lambda: Scrape.of(worker).total("feedback_records_total", outcome="counted") == agents, 30)
    until(lambda: Scrape.of(worker).total("feedback_open_windows") == agents, 40)
    read = Scrape.of(worker)
    assert read.total("feedback_cached_windows") == 12
    assert read.total("feedback_due_windows") == 0
    assert all(0 <= lag < 60 for lag in values(read, "feedback_watermark_lag_seconds"))


def test_a_database_that_is_away_shows(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, own_database: EmbeddedDatabase
) -> None:
    ours = settings(embedded_broker, mongodb_url=short_of_patience(own_database), **SHORT_WINDOWS)
    worker = start_worker(ours)
    publish(ours, 30)
    closed(ours)
    read = Scrape.of(worker)
    assert (read.total("feedback_sink_down"), read.total("feedback_retries_total")) == (0, 0)

    own_database.kill()
    publish(ours, 45)
    until(lambda: Scrape.of(worker).total("feedback_sink_down") == 1, 60)
    until(lambda: Scrape.of(worker).total("feedback_due_windows") == 45, 60)
    until(lambda: max(values(Scrape.of(worker), "feedback_close_backlog_seconds")) > 3, 60)
    read = Scrape.of(worker)
    assert read.total("feedback_retries_total") > 0
    assert read.total("feedback_mongodb_command_duration_seconds_count", outcome="failed") > 0
    assert read.total("feedback_lag_records") == 0, "counting goes on"
    assert (read.total("feedback_ready"), read.total("feedback_live")) == (1, 1)
    before = read.total("feedback_windows_closed_total")

    own_database.start()
    closed(ours)
    until(lambda: Scrape.of(worker).total("feedback_due_windows") == 0, 30)
    read = Scrape.of(worker)
    assert read.total("feedback_sink_down") == 0
    assert read.total("feedback_windows_closed_total") - before == 45
    assert max(values(read, "feedback_close_backlog_seconds")) < 3


def test_the_lag_grows_also_while_nothing_is_fetched(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, own_database: EmbeddedDatabase
) -> None:
    """With items a fold waits for the database: then nothing is fetched that would tell where the topic ends."""
    ours = settings(
        embedded_broker,
        mongodb_url=short_of_patience(own_database),
        **SHORT_WINDOWS | QUIET | {"store_items": True, "partitions": 1},
    )
    worker = start_worker(ours)
    own_database.kill()
    with FeedbackPublisher(ours) as publisher:
        for number in range(12):
            # One at a time: the embedded broker takes the first offset of the last batch for the end of the topic.
            publisher.publish_bytes(b"agent-1", event(number, "agent-1", now()))
            publisher.flush()
            if number < 2:  # one is being folded, one waits, and nothing is fetched any more
                until(lambda: Scrape.of(worker).total("feedback_lag_records", source="feedback") > number, 30)  # noqa: B023  # called at once
    until(lambda: Scrape.of(worker).total("feedback_lag_records", source="feedback") == 12, 60)
    own_database.start()
    until(lambda: Scrape.of(worker).total("feedback_lag_records", source="feedback") == 0, 60)
    assert Scrape.of(worker).total("feedback_mongodb_operations_total", collection="items", operation="insert") == 12


def test_a_partition_s_gauges_go_with_it_and_counters_stay(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    quiet = SHORT_WINDOWS | QUIET | {"partitions": 4}
    first = settings(embedded_broker, **quiet)
    one = start_worker(first)
    publish(first, 200)
    until(lambda: counted(one) == 200, 30)
    until(lambda: all(Scrape.of(one).partitions(gauge) == {0, 1, 2, 3} for gauge in _PARTITION_GAUGES), 30)

    other = start_worker(settings(embedded_broker, **quiet))
    until(lambda: shared_out(one, other), 60)
    # Every window is told of once.
    until(
        lambda: Scrape.of(one).total("feedback_open_windows") + Scrape.of(other).total("feedback_open_windows") == 200,
        40,
    )
    assert (counted(one), counted(other)) == (200, 0), "what was counted here was counted here"
    publish(first, 300)
    until(lambda: counted(one) + counted(other) == 500, 30)
    assert counted(other) > 0

    assert terminate(other) == 0
    until(lambda: all(Scrape.of(one).partitions(gauge) == {0, 1, 2, 3} for gauge in _PARTITION_GAUGES), 60)
    read = Scrape.of(one)
    assert read.total("feedback_partitions", state="ready") == 4
    assert read.total("feedback_restored_records_total") > 0


def shared_out(one: WorkerProcess, other: WorkerProcess) -> bool:
    """Say whether each partition is in one worker's answer, for every gauge, and neither has none."""
    answers = [Scrape.of(worker) for worker in (one, other)]
    for gauge in _PARTITION_GAUGES:
        mine, theirs = (answer.partitions(gauge) for answer in answers)
        if not (mine and theirs and not mine & theirs and mine | theirs == {0, 1, 2, 3}):
            return False
    return sum(answer.total("feedback_partitions", state="ready") for answer in answers) == 4


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_wants_the_token_and_speaks_what_is_asked_for(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    worker = start_worker(settings(embedded_broker, web_token="open-sesame", **SHORT_WINDOWS))
    for headers in ({}, {"Authorization": "Bearer open"}):
        assert worker.get("/metrics", **headers)[0] == 401
    allowed = {"Authorization": "Bearer open-sesame"}
    content_type, body = fetch(worker, **allowed)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "# EOF" not in body
    content_type, body = fetch(worker, Accept="application/openmetrics-text; version=1.0.0", **allowed)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


def fetch(worker: WorkerProcess, **headers: str) -> tuple[str, str]:
    request = urllib.request.Request(f"{worker.url}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        return answer.headers["Content-Type"], answer.read().decode()


# -- the parts -------------------------------------------------------------------------------------------------------


async def test_every_command_to_the_database_is_told(database: EmbeddedDatabase, settings: MakeSettings) -> None:
    metrics = Metrics()
    ours = settings("kafka://127.0.0.1:1")
    sink = MongoSink(ours, meter=metrics)

    def told() -> dict[str, float]:
        body, _ = metrics.exposition("")
        read = Scrape.parsed(body.decode())
        names = [("windows", "insert"), ("windows", "replace"), ("windows", "find"), ("items", "insert")]
        return {
            f"{collection} {operation}": read.total(
                "feedback_mongodb_operations_total", collection=collection, operation=operation
            )
            for collection, operation in names
        } | {"commands": read.total("feedback_mongodb_command_duration_seconds_count", outcome="answered")}

    try:
        documents: list[dict[str, Any]] = [{"_id": name, "count": 2} for name in "abc"]
        await sink.upsert_windows(documents)
        assert told() == {
            "windows insert": 3,
            "windows replace": 0,
            "windows find": 0,
            "items insert": 0,
            "commands": 1,
        }
        # All are there already: refused as new, then replaced.
        await sink.upsert_windows(documents[:2])
        assert told() == {
            "windows insert": 5,
            "windows replace": 2,
            "windows find": 0,
            "items insert": 0,
            "commands": 3,
        }
        # One is ahead, which has to be asked for.
        await sink.upsert_windows([{"_id": "a", "count": 1}])
        assert told() == {
            "windows insert": 6,
            "windows replace": 3,
            "windows find": 1,
            "items insert": 0,
            "commands": 6,
        }
    finally:
        await sink.close()
    gone = MongoSink(
        settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1"),
        meter=metrics,
        server_selection_timeout_s=0.1,
    )
    with pytest.raises(SinkUnavailable):
        await gone.upsert_windows([{"_id": "a", "count": 1}])
    await gone.close()
    body, _ = metrics.exposition("")
    failed = Scrape.parsed(body.decode()).total("feedback_mongodb_command_duration_seconds_count", outcome="failed")
    assert (failed, told()["commands"]) == (1, 6)


def test_markers_of_transactions_are_no_lag(kafka: str, settings: MakeSettings) -> None:
    """They have offsets, and are never handed out: behind the last record they would count as lag for ever."""
    ours = settings(kafka, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    producer = Producer(librdkafka_config(ours) | {"transactional.id": ours.app_id})
    producer.init_transactions(30)
    for _ in range(2):
        producer.begin_transaction()
        producer.produce(topics.feedback, b"{}", partition=0)
        producer.commit_transaction(30)
    source = PartitionSource(ours, 0, {topics.feedback: 0})
    folded_to = 0
    try:

        def behind() -> int | None:
            nonlocal folded_to
            for batch in source.fetch(0.2):
                folded_to = batch.end
            return lag(source.progress[topics.feedback], folded_to)

        until(lambda: behind() == 0, 30)
        assert folded_to == 3  # a record, a marker, a record, and the last marker is at 3
        assert source.progress[topics.feedback].end == 4
        assert lag(source.progress[topics.feedback], 1) == 3
    finally:
        source.close()


# -- helpers ---------------------------------------------------------------------------------------------------------


def now() -> int:
    return time.time_ns() // 1_000_000


def counted(worker: WorkerProcess) -> float:
    return Scrape.of(worker).total("feedback_records_total", outcome="counted")


def values(read: Scrape, name: str) -> list[float]:
    return [sample.value for sample in read.samples if sample.name == name]


def short_of_patience(database: EmbeddedDatabase) -> str:
    """Return a URL with which a server that is away is noticed soon."""
    return f"{database.url}/?serverSelectionTimeoutMS=500"


def publish(settings: Settings, events: int) -> None:
    """Send events of the moment, each of another agent."""
    moment = now()
    with FeedbackPublisher(settings) as publisher:
        for number in range(events):
            agent = f"agent-{events}-{number}"
            publisher.publish_bytes(agent.encode(), event(number, agent, moment))


def misplace(settings: Settings, events: int) -> int:
    """Send events to any partition; return how many have to be forwarded."""
    moment, misplaced = now(), 0
    with FeedbackPublisher(settings) as publisher:
        for number in range(events):
            agent = f"misplaced-{number % 7}"
            partition = number % settings.partitions
            misplaced += partition != partition_of(agent, settings.partitions)
            publisher.publish_bytes(agent.encode(), event(number, agent, moment), partition=partition)
    assert 0 < misplaced < events
    return misplaced
