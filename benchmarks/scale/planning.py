"""From what was measured to what a rate of events needs. docs/scaling.md explains it; nothing of it is typed there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Self

_MB: Final = 1_000_000
_NOISE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the plan takes from the measurements.

    Attributes:
        cores: CPU seconds a second of one saturated worker process.
        event_us: CPU microseconds of an event where each of a batch is another agent's; closing its window left out.
        close_us: CPU microseconds of closing a window.
        peak_mb: of a worker process.
        event_bytes: key and value of an event.
        aggregated_event_bytes: the same of an aggregated event.
        changelog_bytes_an_event: written to the changelog for each event where each of a batch is another agent's.
        events_a_transaction: of a saturated worker.
        window_bytes: key and value of a window's state.
        restore_rate: changelog records restored a second, the start of the process left out where that can be told.
        start_s: seconds from the start of a process until it is ready, with nothing to restore.
        source: where *cores* is from.
    """

    cores: float
    event_us: float
    close_us: float
    peak_mb: float
    event_bytes: float
    aggregated_event_bytes: float
    changelog_bytes_an_event: float
    events_a_transaction: float
    window_bytes: float
    restore_rate: float
    start_s: float
    source: str

    @classmethod
    def of(cls, parts: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> Self | None:
        """Read scale.json's *parts*, and comparison.json's content; None where a part has failed that is needed."""
        base, agents = parts["backlog"]["rows"][0], parts["agents"]["rows"]
        state, traffic = parts["restore"]["facts"], parts["backlog"]["facts"]
        whole, start = state.get("seconds_to_restore", 0.0), state.get("seconds_to_start", 0.0)
        # A small changelog is lost in the noise of two starts: then the restore is taken for as long as the whole.
        seconds = whole - start if whole - start > _NOISE_S else whole
        if not (base["cpu_us"] and agents[1]["cpu_us"] and agents[-1]["cpu_us"] and seconds > 0):
            return None
        cores, source = base["records"] / base["seconds"] * base["cpu_us"] / 1_000_000, "the base point"
        for figure in (comparison or {}).get("figures", ()):
            if figure["name"] == "ours" and figure["rates"]:
                cores, source = median(figure["rates"]) * median(figure["cpu_us"]) / 1_000_000, "`make bench`"
        return cls(
            cores=cores,
            event_us=agents[-1]["cpu_us"],
            # The base point has as many agents as the second of those, and closes its windows besides.
            close_us=max(0.0, base["cpu_us"] - agents[1]["cpu_us"]) * base["records"] / base["windows"],
            peak_mb=base["peak_mb"],
            event_bytes=traffic["event_bytes"],
            aggregated_event_bytes=traffic["aggregated_event_bytes"],
            changelog_bytes_an_event=state["changelog_bytes_a_record"] * state["changelog_records_an_event"],
            events_a_transaction=traffic["events_a_transaction"],
            window_bytes=state["bytes_an_open_window"],
            restore_rate=state["changelog_records"] / seconds,
            start_s=state["seconds_to_start"],
            source=source,
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for, and what is assumed and was not measured.

    Attributes:
        rate: events a second.
        agents: each as likely as the other.
        window_s: the size of a window.
        retention_s: how long closed windows can be amended, so are kept.
        busy: the share of its saturated rate that a worker is loaded with; the rest is for catching up.
        worker_partitions: partitions for each worker.
        copies: the replication factor.
        broker_mb: MB that a broker may be given to write a second, copies included.
        input_s: how long the input is kept.
        obsolete: how many records the changelog holds for each that counts: compaction lags behind.
        batch_size: documents in one bulk write.
    """

    rate: float
    agents: int
    window_s: float = 300.0
    retention_s: float = 3_600.0
    busy: float = 0.6
    worker_partitions: int = 8
    copies: int = 3
    broker_mb: float = 100.0
    input_s: float = 86_400.0
    obsolete: float = 2.0
    batch_size: int = 1_000


#: What the design started from, ten times that, and ten times that with as many more agents.
DEMANDS: Final = (
    Demand(500_000, 1_000_000),
    Demand(5_000_000, 1_000_000),
    Demand(5_000_000, 10_000_000),
)


def plan(measured: Measured, demand: Demand) -> dict[str, str]:
    """Return what *demand* needs, by what it is; the formulas are in docs/scaling.md."""
    # An agent has a window if it has an event in it: with random agents, all but e^-n of them, n events an agent.
    present = 1 - math.exp(-demand.rate * demand.window_s / demand.agents)
    windows = demand.agents * present / demand.window_s
    cores = (demand.rate * measured.event_us + windows * measured.close_us) / 1_000_000 / demand.busy
    workers = math.ceil(cores / measured.cores)
    kept = demand.agents * present * (1 + math.ceil(demand.retention_s / demand.window_s))
    events_mb = demand.rate * measured.event_bytes / _MB
    changelog_mb = demand.rate * measured.changelog_bytes_an_event / _MB
    aggregates_mb = windows * measured.aggregated_event_bytes / _MB
    written_mb = demand.copies * (events_mb + changelog_mb + aggregates_mb)
    state_mb = kept * measured.window_bytes / _MB
    restore_s = measured.start_s + kept * demand.obsolete / workers / measured.restore_rate
    return {
        "worker processes": f"{workers:,}",
        "cores for them": f"{math.ceil(cores):,}",
        "memory for them, GB": f"{workers * measured.peak_mb / 1_000:,.1f}",
        "partitions": f"{workers * demand.worker_partitions:,}",
        "transactions/s": f"{demand.rate / measured.events_a_transaction:,.0f}",
        "events, MB/s": f"{events_mb:,.0f}",
        "changelog, MB/s": f"{changelog_mb:,.0f}",
        "aggregated events, MB/s": f"{aggregates_mb:,.1f}",
        "written by all brokers, MB/s": f"{written_mb:,.0f}",
        "brokers": f"{max(demand.copies, math.ceil(written_mb / demand.broker_mb)):,}",
        "window documents/s": f"{windows:,.0f}",
        "bulk writes/s": f"{windows / demand.batch_size:,.1f}",
        "with items: documents/s": f"{windows + demand.rate:,.0f}",
        "state on a worker's disk, MB": f"{state_mb / workers:,.0f}",
        "changelog on the brokers' disks, GB": f"{demand.copies * demand.obsolete * state_mb / 1_000:,.1f}",
        "input on the brokers' disks, TB": f"{demand.copies * events_mb * demand.input_s / _MB:,.1f}",
        "restore of one worker from an empty disk, s": f"{restore_s:,.1f}",
    }


def lines(measured: Measured | None) -> Iterator[str]:
    """Yield the table, and what went into it."""
    if measured is None:
        yield "A part that this is worked out from has failed."
        return
    plans = [plan(measured, demand) for demand in DEMANDS]
    yield f"| | {' | '.join(f'{demand.rate:,.0f} events/s, {demand.agents:,} agents' for demand in DEMANDS)} |"
    yield f"|---|{'---|' * len(DEMANDS)}"
    for what in plans[0]:
        yield f"| {what} | {' | '.join(each[what] for each in plans)} |"
    yield ""
    yield _measured(measured)
    yield ""
    yield _assumed(DEMANDS[0])


def _measured(it: Measured) -> str:
    return (
        f"Measured: a saturated worker process uses `p` = {it.cores:.2f} cores ({it.source}), with a peak of "
        f"{it.peak_mb:.0f} MB. An event takes `e` = {it.event_us:.2f} µs of CPU time where each of a batch is another "
        f"agent's, and closing a window `d` = {it.close_us:.1f} µs. An event has {it.event_bytes:.0f} bytes, puts "
        f"{it.changelog_bytes_an_event:.0f} into the changelog, and shares a transaction with "
        f"{it.events_a_transaction:,.0f}; an aggregated event has {it.aggregated_event_bytes:.0f}, a window's state "
        f"{it.window_bytes:.0f}. A process starts in {it.start_s:.1f} s and restores {it.restore_rate:,.0f} changelog "
        "records/s."
    )


def _assumed(it: Demand) -> str:
    return (
        f"Assumed: windows of `W` = {it.window_s:g} s, kept for `T` = {it.retention_s:g} s more; workers that are busy "
        f"to `u` = {it.busy:g}; {it.worker_partitions} partitions for each; `k` = {it.copies} copies; "
        f"{it.broker_mb:g} MB/s for each broker to write; the input kept for {it.input_s / 3_600:g} h, uncompressed; "
        f"`o` = {it.obsolete:g} changelog records for each window; {it.batch_size:,} documents in a bulk write."
    )
