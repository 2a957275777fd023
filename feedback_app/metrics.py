"""The metrics of a worker, for Prometheus. docs/operations.md says what each one means, and how to read it.

Counters and histograms are of the worker, and have no partition: they outlive a rebalance, so that nothing that was
counted is lost with a series, and a sum over workers is right. Gauges of a partition are worked out when they are asked
for, of the partitions that are owned at that moment: what is given up is gone from the next answer, and no partition
is in two workers' answers but for the moment in which it changes hands.

Labels are bounded by the settings and by this module: never an agent's id, nor anything else that traffic brings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from feedback_app.core.aggregate import summary_of
from feedback_app.core.clock import Clock
from feedback_app.core.state import end_of
from feedback_app.health import Health
from feedback_app.liveness import Liveness
from feedback_app.measuring import Collection, CommandOutcome, Operation, TransactionOutcome, Worker

if TYPE_CHECKING:
    from feedback_app.closing import DueWindow
    from feedback_app.folding import Tally

_FAST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RESTORES: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_DELAYS: Final = (0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_AGES: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 330.0, 360.0, 600.0, 1800.0, 3600.0, 7200.0)
_RECORDS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0)
_EVENTS: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 10000.0, 100000.0)

_TRANSACTIONS: Final[Sequence[TransactionOutcome]] = ("committed", "aborted", "fenced", "failed")
_COLLECTIONS: Final[Sequence[Collection]] = ("windows", "items")
_OPERATIONS: Final[dict[Collection, Sequence[Operation]]] = {
    "windows": ("insert", "replace", "find"),
    "items": ("insert", "update", "find"),
}
_COMMANDS: Final[Sequence[CommandOutcome]] = ("answered", "failed")


class WindowHistogram:
    """A histogram that takes the values of a whole pass at once.

    It is told of every window that is closed. One value at a time, the library's own takes 1.3 us for each, and this
    one less than 0.1 us.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Count *values*."""
        ordered, below = sorted(values), 0
        for number, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound)
            self._counts[number] += upto - below
            below = upto
        self._counts[-1] += len(ordered) - below
        self._sum += sum(values)

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        buckets, below = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        return [HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)]


class Metrics:
    """Every metric of one worker, in a registry of its own. Implements ``feedback_app.measuring.Meter``.

    All methods belong to the event loop.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, labels, registry=registry)

        def histogram(name: str, documentation: str, bounds: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name, documentation, labels, buckets=bounds, registry=registry)

        def of_windows(name: str, documentation: str, bounds: Sequence[float]) -> WindowHistogram:
            return WindowHistogram(name, documentation, bounds, registry)

        self._build = Info("feedback_build", "The version, and the batching mode.", registry=registry)

        # -- batches in -------------------------------------------------------------------------------------------
        records = counter(
            "feedback_records_total", "Records read and committed, by what became of them.", "outcome"
        ).labels
        self._counted, self._late = records("counted"), records("late")
        self._dead_letters, self._forwarded = records("dead_letter"), records("forwarded")
        self._fold_seconds = histogram(
            "feedback_fold_duration_seconds",
            "From decoding the first records of a fold to having committed them.",
            _FAST,
        )
        self._fold_records = histogram("feedback_fold_records", "Records of one fold, hence one transaction.", _RECORDS)

        # -- windows out ------------------------------------------------------------------------------------------
        self._flushes = counter("feedback_flushes_total", "Passes that have closed windows.")
        self._flush_windows = histogram("feedback_flush_windows", "Windows closed by one pass.", _RECORDS)
        closed = counter(
            "feedback_windows_closed_total", "Windows closed, for the first time or amended.", "kind"
        ).labels
        self._closed_first, self._closed_again = closed("first"), closed("amended")
        self._window_events = of_windows(
            "feedback_window_events", "Events counted in a window, when it was closed for the first time.", _EVENTS
        )
        self._batch_age = of_windows(
            "feedback_batch_age_seconds",
            "From the earliest event of a window, by its timestamp, to having closed the window for the first time.",
            _AGES,
        )
        self._close_delay = of_windows(
            "feedback_close_delay_seconds",
            "From the end of a window to having closed it for the first time.",
            _DELAYS,
        )
        self._published = counter("feedback_events_published_total", "Aggregated events published.")

        # -- the database -----------------------------------------------------------------------------------------
        operations = counter(
            "feedback_mongodb_operations_total",
            "Operations that MongoDB has answered: documents written, and queries.",
            "collection",
            "operation",
        )
        self._operations = {
            (collection, operation): operations.labels(collection, operation)
            for collection in _COLLECTIONS
            for operation in _OPERATIONS[collection]
        }
        commands = histogram(
            "feedback_mongodb_command_duration_seconds",
            "What MongoDB took for one command: a bulk write, or a query.",
            _FAST,
            "collection",
            "outcome",
        )
        self._commands = {
            (collection, outcome): commands.labels(collection, outcome)
            for collection in _COLLECTIONS
            for outcome in _COMMANDS
        }
        self._items_refused = counter("feedback_items_refused_total", "Items that MongoDB has refused for good.")

        # -- the broker -------------------------------------------------------------------------------------------
        transactions = counter("feedback_transactions_total", "Kafka transactions, by how they ended.", "outcome")
        self._transactions = {outcome: transactions.labels(outcome) for outcome in _TRANSACTIONS}
        self._transaction_seconds = histogram(
            "feedback_transaction_duration_seconds",
            "From a transaction's first record to its end, and to having written RocksDB when it was committed.",
            _FAST,
        )
        self._restore_seconds = histogram(
            "feedback_restore_duration_seconds", "What it took to fence and restore a partition.", _RESTORES
        )
        self._restored = counter("feedback_restored_records_total", "Changelog records read to restore partitions.")

        ProcessCollector(registry=registry)

    def watch(
        self,
        worker: Worker,
        health: Health,
        liveness: Liveness,
        clock: Clock,
        *,
        partitions: int,
        mode: str,
        version: str,
    ) -> None:
        """Ask these for gauges, whenever the metrics are read. To be called once."""
        self._build.info({"mode": mode, "version": version})
        self.registry.register(_WorkerState(worker, health, liveness, clock, partitions))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, written down, and their content type.

        Args:
            accept: what the reader can take: the value of an HTTP header ``Accept``.
        """
        encode, content_type = choose_encoder(accept)
        return encode(_Families(self.registry.collect())), content_type

    # -- what the meter is told ------------------------------------------------------------------------------------

    def folded(self, records: int, tally: Tally) -> None:
        self._fold_records.observe(records)
        self._counted.inc(records - tally.late - tally.invalid - tally.forwarded)
        self._late.inc(tally.late)
        self._dead_letters.inc(tally.invalid)
        self._forwarded.inc(tally.forwarded)

    def fold_took(self, seconds: float) -> None:
        self._fold_seconds.observe(seconds)

    def flushed(self, windows: Sequence[DueWindow], events: int, now_ms: int) -> None:
        self._flushes.inc()
        self._flush_windows.observe(len(windows))
        self._published.inc(events)
        counts, delays_ms, ages_ms = [], [], []
        for due in windows:
            revision, count, first = summary_of(due.value)
            # One that is amended is as old as its late event is late, and says nothing of how fast windows are closed.
            if revision == 0:
                counts.append(count)
                delays_ms.append(now_ms - end_of(due.key))
                ages_ms.append(now_ms - first)
        self._closed_first.inc(len(counts))
        self._closed_again.inc(len(windows) - len(counts))
        self._window_events.observe(counts)
        self._close_delay.observe([max(0, ms) / 1000 for ms in delays_ms])
        self._batch_age.observe([max(0, ms) / 1000 for ms in ages_ms])

    def transaction(self, outcome: TransactionOutcome, seconds: float) -> None:
        self._transactions[outcome].inc()
        self._transaction_seconds.observe(seconds)

    def restored(self, records: int, seconds: float) -> None:
        self._restored.inc(records)
        self._restore_seconds.observe(seconds)

    def command(
        self, collection: Collection, operation: Operation, operations: int, outcome: CommandOutcome, seconds: float
    ) -> None:
        self._commands[collection, outcome].observe(seconds)
        if outcome == "answered":
            self._operations[collection, operation].inc(operations)

    def items_refused(self, items: int) -> None:
        self._items_refused.inc(items)


class _Families:
    """Metrics as they were at one moment; without the series that say since when a counter counts: one for each."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]

    def collect(self) -> Iterable[Metric]:
        return self._families


class _WorkerState:
    """The gauges that are worked out when they are asked for."""

    def __init__(self, worker: Worker, health: Health, liveness: Liveness, clock: Clock, partitions: int) -> None:
        self._worker = worker
        self._health = health
        self._liveness = liveness
        self._clock = clock
        self._partitions = partitions

    def describe(self) -> Iterable[Metric]:
        return [*_partition_families().values(), *self._of_the_worker(owned=0)]

    def collect(self) -> Iterator[Metric]:
        families = _partition_families()
        now, owned = self._clock.now_ms() / 1000, 0
        for figures in self._worker.figures():
            owned += 1
            partition = str(figures.partition)
            for source, records in figures.lag.items():
                families["lag"].add_metric([partition, source], records)
            if figures.watermark_ms is not None:
                families["watermark"].add_metric([partition], now - figures.watermark_ms / 1000)
            families["cached"].add_metric([partition], figures.cached)
            families["open"].add_metric([partition], figures.open)
            families["due"].add_metric([partition], figures.due)
            families["backlog"].add_metric([partition], figures.backlog_s)
        yield from families.values()
        yield from self._of_the_worker(owned)

    def _of_the_worker(self, owned: int) -> Iterator[Metric]:
        partitions = GaugeMetricFamily("feedback_partitions", "Partitions that this worker owns.", labels=["state"])
        partitions.add_metric(["ready"], owned)
        partitions.add_metric(["restoring"], self._worker.restoring())
        yield partitions
        health = self._health
        yield CounterMetricFamily(
            "feedback_retries_total", "Writes that MongoDB did not take and that are tried again.", health.failed_writes
        )
        for name, documentation, value in (
            ("configured_partitions", "FEEDBACK_PARTITIONS.", self._partitions),
            ("sink_down", "1 while the database takes no writes.", health.waits_for_database),
            ("stale_windows", "Windows whose document is ahead of the state.", health.stale_windows),
            ("refused_windows", "Windows whose document the database refuses.", health.refused_windows),
            ("ready", "1 once every assigned partition is restored.", not self._worker.not_ready()),
            ("live", "0 once a part of the worker has died or hangs.", not self._liveness.reasons()),
        ):
            yield GaugeMetricFamily(f"feedback_{name}", documentation, value)


def _partition_families() -> dict[str, GaugeMetricFamily]:
    def family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"feedback_{name}", documentation, labels=["partition", *labels])

    return {
        "lag": family("lag_records", "Offsets of a source topic that are not counted yet.", "source"),
        "watermark": family("watermark_lag_seconds", "How far the watermark is behind the clock."),
        "cached": family("cached_windows", "Windows in memory."),
        "open": family("open_windows", "Open windows, due ones too."),
        "due": family("due_windows", "Windows that are due and not closed yet."),
        "backlog": family("close_backlog_seconds", "Since closing last had nothing left to do."),
    }
