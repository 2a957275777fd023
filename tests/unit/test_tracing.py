"""What traces tell of folds and closes, and what they must not tell."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agents.feedback import Folder
from agents.pace import Pace
from agents.window_close import Closer
from feedback_app import factory, retry, telemetry
from feedback_app.closing import CloseRules
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import ManualClock, SystemClock
from feedback_app.core.documents import Document
from feedback_app.core.events import Event
from feedback_app.core.state import OPEN, PartitionRecord, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.errors import Aborted, BrokerError, Fenced, SettingsError
from feedback_app.folding import FoldRules
from feedback_app.health import Health
from feedback_app.measuring import NO_METER
from feedback_app.settings import Settings
from feedback_app.sinks import Outcome, SinkUnavailable
from feedback_app.sinks.counting import CountingSink
from feedback_app.telemetry import OpenTelemetryTracer, open_tracer
from feedback_app.tracing import NO_TRACER
from feedback_app.transport.readers import Messages
from feedback_app.transport.source import Batch
from tables.schedule import Schedule
from tables.store import PartitionStore
from tests.services.due_partition import DuePartition, NotedSchedule, committing_partition
from tests.unit import test_folder as folding

_SECRET = "open-sesame"
_SIZE = 1_000


class Traces:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OpenTelemetryTracer(provider)

    def ended(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.ended(name)
        return span


@pytest.fixture
def traces() -> Traces:
    return Traces()


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Return a span's attributes, less their prefix."""
    return {name.removeprefix("feedback."): value for name, value in (span.attributes or {}).items()}


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


class Unavailable(CountingSink):
    """A database that is away for its first calls, and says so with what must not get about."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self._failures = failures

    def _fail(self) -> None:
        if self._failures:
            self._failures -= 1
            raise SinkUnavailable(f"mongodb://me:{_SECRET}@db does not answer")

    async def upsert_windows(self, documents: Sequence[Document]) -> Outcome:
        self._fail()
        return await super().upsert_windows(documents)

    async def upsert_items(self, items: Sequence[Document]) -> int:
        self._fail()
        return await super().upsert_items(items)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)


# -- a fold ----------------------------------------------------------------------------------------------------------


class Record(folding.Record):
    """One of five is late, and one is no event at all."""

    def key(self) -> bytes | None:
        return None

    def headers(self) -> None:
        return None

    def value(self) -> bytes:
        if self._offset == 1:
            return b'{"agentId":"%s"' % _SECRET.encode()
        timestamp = 0 if self._offset == 2 else 100_000
        return b'{"feedbackId":"f-%d","agentId":"%s","userId":"%s","rating":"neutral","timestamp":%d}' % (
            self._offset,
            _SECRET.encode(),
            _SECRET.encode(),
            timestamp,
        )


class Table(folding.Table):
    def read_again(self, owned: folding.Owned) -> None:
        assert not hasattr(owned, "last_fold"), "what was aborted is nothing to go back to"
        super().read_again(owned)


async def fold(traces: Traces, *, aborts: int = 0, failures: int = 0) -> folding.Owned:
    """Fold five records: one is invalid, one is late."""
    records = [cast(Any, Record(offset)) for offset in range(5)]
    batch = Batch(folding.TOPICS.feedback, 0, 0, 5, Messages(records))
    owned = folding.Owned(batch, aborts=range(aborts))
    table = Table(owned, again=[batch._replace(records=Messages(records))])
    rules = FoldRules(0, lambda agent_id: 0, folding.TOPICS, _SIZE, Lateness(0, _SIZE), 1 << 60, keep_items=True)
    folder = Folder(cast(Any, table), Unavailable(failures), SystemClock(), Health(), Pace(), NO_METER, traces.tracer)
    task = asyncio.create_task(folder.run(cast(Any, owned), rules))
    async with asyncio.timeout(10):
        await owned.first_commit.wait()
    task.cancel()
    await asyncio.wait([task])
    return owned


async def test_a_fold_tells_what_became_of_its_records(traces: Traces) -> None:
    await fold(traces)
    ours = traces.only("fold")
    assert attributes(ours) == {"partition": 0, "records": 5, "windows": 1, "late": 1, "invalid": 1, "forwarded": 0}
    assert parent(ours) is None
    items = traces.only("items")
    assert attributes(items) == {"items": 4}
    assert parent(items) == span_id(ours)
    assert items.events == ()


async def test_each_try_that_the_database_does_not_take_is_told(traces: Traces) -> None:
    await fold(traces, failures=2)
    assert [event.name for event in traces.only("items").events] == ["retry", "retry"]


async def test_a_fold_is_told_again_when_it_is_folded_again(traces: Traces) -> None:
    owned = await fold(traces, aborts=1)
    folds = traces.ended("fold")
    assert [attributes(span)["records"] for span in folds] == [5, 5]
    assert cast(Any, owned).last_fold.link.context.span_id == span_id(folds[1]), (
        "only what is committed is gone on from"
    )


# -- a close ---------------------------------------------------------------------------------------------------------


class Owned(DuePartition):
    """One whose last fold was traced, as its transactions are."""

    def __init__(self, store: PartitionStore, tracer: OpenTelemetryTracer, schedule: Schedule, *agents: str) -> None:
        aggregate = Aggregate()
        aggregate.add(Event("f", "a", "u", "positive", 4_500), 4_500, 1)
        windows = {window_key(OPEN, agent, 5_000, _SIZE): aggregate.encode() for agent in agents}
        super().__init__(store, windows, PartitionRecord(watermark=9_000), schedule, partition=3)
        self._tracer = tracer
        with tracer.span("fold") as self.last_fold:
            pass

    async def commit(self, transaction: Transaction) -> None:
        with self._tracer.span("transaction", sent_records=len(transaction.sends)):
            await super().commit(transaction)


async def close(folder: Path, traces: Traces, *agents: str, split: bool = False, failures: int = 0) -> None:
    """Look for due windows until there is none left."""
    store = PartitionStore(folder)
    schedule = NotedSchedule()
    owned: Any = Owned(store, traces.tracer, schedule, *agents)
    closer = Closer(
        owned,
        Unavailable(failures),
        ManualClock(0),
        Health(),
        Lateness(0, 0),
        1 << 40,
        Pace(),
        NO_METER,
        traces.tracer,
    )
    rules = CloseRules(partition=3, aggregates_topic="a", batch_size=100, joint_events=False, split_by_agent=split)
    task = asyncio.create_task(closer.run(owned, rules))
    async with asyncio.timeout(10):
        await schedule.looked.wait()
    task.cancel()
    await asyncio.wait([task])
    store.close()


async def test_a_close_goes_back_to_a_fold_and_is_no_part_of_it(traces: Traces, tmp_path: Path) -> None:
    await close(tmp_path / "store", traces, "ann", "bob")
    ours = traces.only("close")
    assert attributes(ours) == {"partition": 3, "windows": 2, "closed": 2, "events": 2}
    assert parent(ours) is None
    assert [link.context.span_id for link in ours.links] == [span_id(traces.only("fold"))]
    upsert, transaction = traces.only("upsert"), traces.only("transaction")
    assert attributes(upsert) == {"documents": 2, "bulk_writes": 1, "ahead": 0, "refused": 0}
    assert attributes(transaction) == {"sent_records": 2}
    assert {parent(upsert), parent(transaction)} == {span_id(ours)}


async def test_many_bulk_writes_are_one_step(traces: Traces, tmp_path: Path) -> None:
    await close(tmp_path / "store", traces, *"abcdefghijkl", split=True, failures=3)
    upsert = traces.only("upsert")
    assert attributes(upsert) == {"documents": 12, "bulk_writes": 12, "ahead": 0, "refused": 0}
    assert [event.name for event in upsert.events] == ["retry"] * 3


async def test_a_look_that_finds_nothing_leaves_nothing(traces: Traces, tmp_path: Path) -> None:
    await close(tmp_path / "store", traces)
    assert [span.name for span in traces.ended()] == ["fold"]


# -- a transaction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (None, "committed", StatusCode.UNSET),
        (Aborted(_SECRET), "aborted", StatusCode.ERROR),
        (Fenced(_SECRET), "fenced", StatusCode.ERROR),
        (BrokerError(_SECRET), "failed", StatusCode.ERROR),
        (asyncio.CancelledError(_SECRET), None, StatusCode.UNSET),
    ],
)
async def test_a_transaction_tells_how_it_ended(
    traces: Traces,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    outcome: str | None,
    status: StatusCode,
) -> None:
    owned = committing_partition(
        monkeypatch, PartitionRecord(), Settings.model_construct(), error=error, tracer=traces.tracer
    )
    with nullcontext() if error is None else pytest.raises(type(error)):
        await owned.commit(Transaction({b"a": b"", b"b": None}, PartitionRecord()))
    span = traces.only("transaction")
    told = attributes(span)
    assert told.pop("outcome", None) == outcome
    assert told.pop("error.type", None) == (type(error).__name__ if error else None)
    assert told == {"partition": 3, "changelog_records": 3, "sent_records": 0}
    assert span.status.status_code is status
    assert _SECRET not in span.to_json()


# -- what is not told ------------------------------------------------------------------------------------------------


async def test_nothing_of_an_event_and_nothing_that_an_error_says_is_told(traces: Traces, tmp_path: Path) -> None:
    await fold(traces, aborts=1, failures=1)
    await close(tmp_path / "store", traces, _SECRET, split=True, failures=1)
    told = "".join(span.to_json() for span in traces.ended())
    assert _SECRET not in told
    assert "f-3" not in told


def test_nothing_of_opentelemetry_is_imported_unless_it_is_wanted() -> None:
    script = (
        "import sys; from feedback_app.factory import create_app; from feedback_app.settings import load_settings; "
        "create_app(load_settings(_env_file=None, tracing=sys.argv[1] == 'on')); "
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    for wanted, imported in (("off", "False"), ("on", "True")):
        command = [sys.executable, "-c", script, wanted]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == imported


async def test_without_a_tracer_everything_goes_on() -> None:
    NO_TRACER.start()
    with NO_TRACER.span("fold", partition=1) as span:
        span.set(records=1)
        span.event("retry")
    await NO_TRACER.stop()


# -- settings --------------------------------------------------------------------------------------------------------


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "feedback_app.telemetry")
    monkeypatch.delattr("feedback_app.telemetry")
    with pytest.raises(SettingsError) as raised:
        factory._tracer(Settings.model_construct(tracing=True))
    assert raised.value.message.startswith("FEEDBACK_TRACING=true: opentelemetry")
    assert raised.value.message.endswith("is not installed; pip install 'feedback-app[tracing]'")


def test_a_variable_that_makes_no_sense_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(
        SettingsError, match=r"^FEEDBACK_TRACING=true: one of the variables OTEL_\* is wrong: max_queue"
    ):
        open_tracer("here:1").start()
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")
    with pytest.raises(SettingsError, match=r"is wrong: OTEL_SPAN_EVENT_COUNT_LIMIT"):
        open_tracer("here:1")


def test_a_worker_says_which_it_is_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = open_tracer("here:1")._provider.resource.attributes
    assert (ours["service.name"], ours["service.instance.id"]) == ("feedback-app", "here:1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ratings")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=first,deployment.environment.name=test")
    theirs = open_tracer("here:1")._provider.resource.attributes
    assert (theirs["service.name"], theirs["service.instance.id"]) == ("ratings", "first")
    assert theirs["deployment.environment.name"] == "test"
    assert theirs["service.version"] == ours["service.version"]


# -- handing on ------------------------------------------------------------------------------------------------------


class Stuck(SpanExporter):
    """A collector that takes what it is given, and never says so."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        threading.Event().wait()
        return SpanExportResult.SUCCESS


async def test_the_end_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "OTLPSpanExporter", Stuck)
    monkeypatch.setattr(telemetry, "_FLUSH_S", 0.1)
    tracer = open_tracer("here:1")
    tracer.start()
    with tracer.span("fold"):
        pass
    async with asyncio.timeout(10):
        await tracer.stop()


def test_a_collector_that_is_away_is_told_of_once_a_minute_and_without_its_address() -> None:
    now = 1_000.0
    seldom = telemetry._Seldom(lambda: now)
    passed = []
    for second in range(61):
        now = 1_000.0 + second
        away = ConnectionError(f"/v1?key={_SECRET}")
        record = logging.LogRecord("exporter", logging.WARNING, "", 0, "%s, again in %.1f s", (away, 1.0), None)
        if seldom.filter(record):
            passed.append(record.getMessage())
    assert passed == ["ConnectionError, again in 1.0 s"] * 2


async def test_a_header_of_the_wrong_form_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization: Bearer {_SECRET}")
    tracer = open_tracer("here:1")
    tracer.start()
    await tracer.stop()
    assert "Header format invalid!" in caplog.text
    assert _SECRET not in caplog.text
