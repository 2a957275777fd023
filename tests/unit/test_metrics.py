"""What the metrics say of what they are told, in both formats, and that they keep to Prometheus' conventions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.openmetrics import parser as openmetrics

from agents.pace import Pace
from agents.window_close import Closer
from feedback_app.closing import CloseRules, DueWindow, plan
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import ManualClock
from feedback_app.core.events import Event
from feedback_app.core.state import OPEN, PartitionRecord, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.errors import Aborted, BrokerError, DatabaseError, Fenced
from feedback_app.folding import Tally
from feedback_app.health import Health
from feedback_app.liveness import Liveness
from feedback_app.measuring import NO_METER, PartitionFigures, Progress, lag, measured_transaction
from feedback_app.metrics import Metrics, WindowHistogram
from feedback_app.sinks import Outcome
from tables.schedule import Schedule
from tables.store import PartitionStore, Position
from tests.services.due_partition import DuePartition, NotedSchedule
from tests.services.metrics import Scrape

_SIZE = 1_000
_NOW = 1_700_000_000_000


class Worker:
    """Says of itself what a test has put there."""

    def __init__(self, *owned: PartitionFigures, restoring: int = 0) -> None:
        self.owned = list(owned)
        self.waiting = restoring

    def figures(self) -> Iterator[PartitionFigures]:
        yield from self.owned

    def restoring(self) -> int:
        return self.waiting

    def not_ready(self) -> str:
        return "restoring" if self.waiting else ""


def figures(partition: int, **changes: Any) -> PartitionFigures:
    values = {"lag": {"feedback": 7, "repartition": 0}, "watermark_ms": _NOW - 4_000, "cached": 3, "open": 5, "due": 2}
    return PartitionFigures(partition=partition, **(values | {"backlog_s": 1.5} | changes))  # type: ignore[arg-type]  # a test's


def watched(worker: Worker, health: Health | None = None, liveness: Liveness | None = None) -> Metrics:
    metrics = Metrics()
    metrics.watch(
        worker,
        health or Health(),
        liveness or Liveness(),
        ManualClock(_NOW),
        partitions=8,
        mode="hybrid",
        version="1.2.3",
    )
    return metrics


def scrape(metrics: Metrics) -> Scrape:
    body, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain; version=0.0.4")
    return Scrape.parsed(body.decode())


def window(end: int, count: int = 1, *, first: int | None = None, revision: int = 0, agent: str = "ann") -> DueWindow:
    aggregate = Aggregate()
    timestamp = end - _SIZE if first is None else first
    for _ in range(count):
        aggregate.add(Event("f", agent, "u", "positive", timestamp), timestamp, 1)
    aggregate.revision = revision
    (due,), _ = plan([(window_key(OPEN, agent, end, _SIZE), aggregate.encode())])
    return due


# -- what is told ----------------------------------------------------------------------------------------------------


def test_records_are_counted_by_what_became_of_them() -> None:
    metrics = watched(Worker())
    metrics.folded(10, Tally(forwarded=1, late=2, invalid=3))
    metrics.folded(5, Tally())
    read = scrape(metrics)
    outcomes = {
        name: read.total("feedback_records_total", outcome=name)
        for name in ("counted", "late", "dead_letter", "forwarded")
    }
    assert outcomes == {"counted": 9, "late": 2, "dead_letter": 3, "forwarded": 1}
    assert read.total("feedback_fold_records_count") == 2
    assert read.total("feedback_fold_records_sum") == 15


def test_a_pass_is_a_flush_of_windows() -> None:
    metrics = watched(Worker())
    metrics.flushed([window(_NOW - 2_000, 4), window(_NOW - 1_000, 6, first=_NOW - 1_500)], 2, _NOW)
    read = scrape(metrics)
    assert read.total("feedback_flushes_total") == 1
    assert (read.total("feedback_flush_windows_sum"), read.total("feedback_flush_windows_count")) == (2, 1)
    assert read.total("feedback_events_published_total") == 2
    assert (read.total("feedback_window_events_sum"), read.total("feedback_window_events_count")) == (10, 2)
    assert read.total("feedback_close_delay_seconds_sum") == 3
    assert read.total("feedback_batch_age_seconds_sum") == 4.5
    assert read.total("feedback_close_delay_seconds_bucket", le="1.0") == 1


def test_an_amended_window_says_nothing_of_how_fast_windows_are_closed() -> None:
    metrics = watched(Worker())
    metrics.flushed([window(_NOW - 3_600_000, revision=1)], 1, _NOW)
    read = scrape(metrics)
    assert read.total("feedback_windows_closed_total", kind="amended") == 1
    assert read.total("feedback_windows_closed_total", kind="first") == 0
    assert read.total("feedback_flush_windows_sum") == 1
    for name in ("window_events", "close_delay_seconds", "batch_age_seconds"):
        assert read.total(f"feedback_{name}_count") == 0


def test_a_window_that_ends_after_the_clock_says_so_has_no_delay() -> None:
    metrics = watched(Worker())
    metrics.flushed([window(_NOW + 60_000)], 1, _NOW)
    assert scrape(metrics).total("feedback_close_delay_seconds_sum") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "committed"), (Aborted(), "aborted"), (Fenced(), "fenced"), (BrokerError(), "failed")],
)
def test_a_transaction_is_counted_by_how_it_ended(error: Exception | None, outcome: str) -> None:
    metrics = watched(Worker())

    def step() -> None:
        with measured_transaction(metrics):
            if error is not None:
                raise error

    if error is None:
        step()
    else:
        with pytest.raises(type(error)):
            step()
    read = scrape(metrics)
    assert read.total("feedback_transactions_total", outcome=outcome) == 1
    assert read.total("feedback_transactions_total") == 1
    assert read.total("feedback_transaction_duration_seconds_count") == 1


def test_a_transaction_that_is_cancelled_has_no_outcome() -> None:
    metrics = watched(Worker())
    with pytest.raises(asyncio.CancelledError), measured_transaction(metrics):
        raise asyncio.CancelledError
    assert scrape(metrics).total("feedback_transactions_total") == 0


def test_the_database_is_measured_by_command_and_by_operation() -> None:
    metrics = watched(Worker())
    metrics.command("windows", "insert", 40, "answered", 0.2)
    metrics.command("items", "update", 3, "failed", 20.0)
    metrics.items_refused(2)
    read = scrape(metrics)
    assert read.total("feedback_mongodb_operations_total", collection="windows", operation="insert") == 40
    assert read.total("feedback_mongodb_operations_total", collection="items") == 0
    commands = "feedback_mongodb_command_duration_seconds_count"
    assert read.total(commands, collection="windows", outcome="answered") == 1
    assert read.total(commands, collection="items", outcome="failed") == 1
    assert read.total("feedback_items_refused_total") == 2


def test_a_take_over_is_measured() -> None:
    metrics = watched(Worker())
    metrics.restored(1_000, 2.5)
    read = scrape(metrics)
    assert read.total("feedback_restored_records_total") == 1_000
    assert read.total("feedback_restore_duration_seconds_sum") == 2.5


def test_applications_in_one_process_have_metrics_of_their_own() -> None:
    one, other = watched(Worker()), watched(Worker())
    one.folded(3, Tally())
    assert scrape(one).total("feedback_fold_records_sum") == 3
    assert scrape(other).total("feedback_fold_records_sum") == 0


@given(st.lists(st.lists(st.floats(0, 20_000))))
def test_a_histogram_of_windows_is_that_of_the_library(passes: list[list[float]]) -> None:
    bounds = (0.5, 1.0, 10.0, 10_000.0)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = WindowHistogram("h", "help", bounds, ours)
    reference = Histogram("h", "help", buckets=bounds, registry=theirs)
    for values in passes:
        histogram.observe(values)
        for value in values:
            reference.observe(value)

    def samples(registry: CollectorRegistry) -> dict[tuple[str, str], Any]:
        return {
            (sample.name, sample.labels.get("le", "")): pytest.approx(sample.value)
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert samples(ours) == samples(theirs)


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_a_partition_s_gauges_are_its_owner_s() -> None:
    worker = Worker(figures(3), figures(5, lag={}, watermark_ms=None))
    metrics = watched(worker)
    read = scrape(metrics)
    assert read.total("feedback_lag_records", partition="3", source="feedback") == 7
    assert read.partitions("feedback_lag_records") == {3}, "an end that is not known is no lag of 0"
    assert read.total("feedback_watermark_lag_seconds", partition="3") == 4
    assert read.partitions("feedback_watermark_lag_seconds") == {3}, "there is no watermark before the first event"
    for name, value in {"cached_windows": 3, "open_windows": 5, "due_windows": 2, "close_backlog_seconds": 1.5}.items():
        assert read.partitions(f"feedback_{name}") == {3, 5}
        assert read.total(f"feedback_{name}", partition="5") == value
    assert read.total("feedback_partitions", state="ready") == 2

    del worker.owned[0]
    worker.waiting = 4
    read = scrape(metrics)
    assert {each.labels["partition"] for each in read.samples if "partition" in each.labels} == {"5"}
    assert read.total("feedback_partitions", state="ready") == 1
    assert read.total("feedback_partitions", state="restoring") == 4
    assert read.total("feedback_ready") == 0


def test_what_is_wrong_with_the_worker_is_told() -> None:
    health, liveness = Health(), Liveness()
    metrics = watched(Worker(), health, liveness)
    names = ("sink_down", "retries_total", "stale_windows", "refused_windows", "ready", "live")

    def told() -> tuple[float, ...]:
        read = scrape(metrics)
        return tuple(read.total(f"feedback_{name}") for name in names)

    assert told() == (0, 0, 0, 0, 1, 1)
    with health.waiting_for_database():
        health.database_failed(DatabaseError("no primary"))
        health.database_failed(DatabaseError("no primary"))
        health.stale("a|0|1000")
        health.refused("b|0|1000")
        liveness.begin("call", "it hangs")
        liveness.advance(30)
        assert told() == (1, 2, 1, 1, 1, 0)
    health.given_up(["a|0|1000", "b|0|1000"])
    liveness.end("call")
    assert told() == (0, 2, 0, 0, 1, 1)


def test_the_version_and_the_mode_are_told() -> None:
    read = scrape(watched(Worker()))
    assert read.total("feedback_build_info", version="1.2.3", mode="hybrid") == 1
    assert read.total("feedback_configured_partitions") == 8


# -- formats and conventions -----------------------------------------------------------------------------------------


def families(metrics: Metrics) -> list[Metric]:
    return list(metrics.registry.collect())


def test_both_formats_say_the_same() -> None:
    metrics = watched(Worker(figures(1)))
    metrics.folded(4, Tally(late=1))
    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    parse: Any = openmetrics.text_string_to_metric_families
    open_metrics = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }
    text = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in scrape(metrics).samples}
    moving = {name for name, _ in text if name.startswith("process_")}
    assert {key: value for key, value in text.items() if key[0] not in moving} == {
        key: value for key, value in open_metrics.items() if key[0] not in moving
    }


def test_names_units_and_help_are_as_prometheus_wants_them() -> None:
    for family in families(watched(Worker(figures(1)))):
        assert family.name.startswith(("feedback_", "process_"))
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_total", "_count", "_sum")), family.name
        if "duration" in family.name or "age" in family.name.split("_") or "delay" in family.name:
            assert family.name.endswith("_seconds"), family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created")), sample.name


def test_no_label_grows_with_traffic() -> None:
    """Two hundred agents, windows and documents later there are no more series than before."""
    health = Health()
    metrics = watched(Worker(figures(1)), health)
    before = len(scrape(metrics).samples)
    for number in range(200):
        metrics.folded(3, Tally())
        metrics.flushed([window(_NOW + number * _SIZE, agent=f"agent-{number}")], 1, _NOW)
        health.stale(f"agent-{number}|0|1000")
    read = scrape(metrics)
    assert len(read.samples) == before
    allowed = {"collection", "kind", "le", "mode", "operation", "outcome", "partition", "source", "state", "version"}
    assert {name for sample in read.samples for name in sample.labels} <= allowed


# -- where the figures come from -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "folded_to", "behind"),
    [
        (Progress(handed_out=10, read_to=10, end=10), 10, 0),
        (Progress(handed_out=10, read_to=10, end=25), 10, 15),
        (Progress(handed_out=10, read_to=10, end=25), 4, 21),  # a batch of six is being folded
        (Progress(handed_out=10, read_to=12, end=12), 10, 0),  # two markers of transactions at the end
        (Progress(handed_out=10, read_to=12, end=12), 4, 8),
        (Progress(handed_out=10, read_to=10, end=8), 10, 0),  # records behind the end that was heard of last
        (Progress(handed_out=0, read_to=0, end=None), 0, None),
    ],
)
def test_the_lag_is_what_is_not_folded_yet(progress: Progress, folded_to: int, behind: int | None) -> None:
    assert lag(progress, folded_to) == behind


def test_the_schedule_counts_what_is_due() -> None:
    now = 100.0
    schedule = Schedule(lambda: now)
    schedule.surveyed(waiting=30, not_due=5)
    assert (schedule.due, schedule.open) == (30, 35)
    schedule.taken(10, more=True)
    assert (schedule.due, schedule.open) == (30, 35)
    schedule.closed(8)
    assert (schedule.due, schedule.open) == (22, 27)
    now = 107.0
    schedule.passed(held=2, caught_up=False)
    assert (schedule.due, schedule.open, schedule.backlog_s) == (22, 27, 7)
    schedule.taken(20, more=False)
    schedule.closed(20)
    schedule.passed(held=2, caught_up=False)
    assert (schedule.due, schedule.backlog_s) == (2, 7)
    schedule.passed(held=2, caught_up=True)
    assert (schedule.due, schedule.backlog_s) == (2, 0)


class Untouched(DuePartition):
    """One with a window that is due, and is not to be closed."""

    async def commit(self, transaction: Transaction) -> None:
        raise AssertionError("nothing is closed here")


class AheadSink:
    """A database whose documents are all ahead."""

    async def upsert_windows(self, documents: Sequence[Mapping[str, Any]]) -> Outcome:
        return Outcome(ahead={document["_id"]: 99 for document in documents})


async def test_a_window_that_waits_by_itself_is_the_owner_s_alone(tmp_path: Path) -> None:
    """Given up with its partition, it is the next owner's: two workers must not both report it, nor be degraded."""
    store = PartitionStore(tmp_path / "store")
    due, schedule = window(5_000), NotedSchedule()
    owned: Any = Untouched(
        store, {due.key: due.value}, PartitionRecord(watermark=9_000), schedule, silent_since_ms=_NOW
    )
    health = Health()
    sink: Any = AheadSink()
    closer = Closer(owned, sink, ManualClock(_NOW), health, Lateness(0, 0), 1 << 40, Pace(), NO_METER)
    rules = CloseRules(partition=0, aggregates_topic="a", batch_size=100, joint_events=False, split_by_agent=False)
    task = asyncio.create_task(closer.run(owned, rules))
    async with asyncio.timeout(10):
        await schedule.held_back.wait()
    assert (health.stale_windows, schedule.due) == (1, 1)
    task.cancel()
    await asyncio.wait([task])
    assert health.stale_windows == 0
    assert health.degraded() == []
    store.close()


def test_open_windows_are_counted_in_slices(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "store")
    keys = [window_key(OPEN, f"agent-{number}", end, _SIZE) for number in range(5) for end in (1_000, 2_000, 3_000)]
    store.write({**dict.fromkeys(keys, b"value"), b"p": b"", b"c" + keys[0][1:]: b"closed"}, Position(1, 0, "topic"))
    assert store.count_open(OPEN, 2_000, 100)[0] == 10
    assert store.count_open(OPEN, None, 100)[0] == 15
    assert store.count_open(OPEN, -1, 100) == (0, OPEN)
    total, after = 0, OPEN
    while (slice_ := store.count_open(after, None, 4))[0]:
        total, after = total + slice_[0], slice_[1]
    assert total == 15
    store.close()
