"""The worker against stock Faust and against a bare loop: ``python -m benchmarks.worker``, ``make bench-worker``.

One run, one real Kafka, one input topic: events of ten one-minute windows of event time, in 8 partitions, in the order
of their times but for a disorder of 2 s, then a tick in each partition that makes every window before it due.

====== =============================== ==================================== ==========================================
peer   what it is                      what it does                         what stops its clock
====== =============================== ==================================== ==========================================
ours   ``faust -A                      counts exactly once, in              all offsets committed and every due window
       benchmarks.our_worker worker``  transactions, with changelog and     published, readable with read_committed
                                       RocksDB; closes, publishes; its
                                       documents go to a sink that counts
stock  ``faust -A                      counts at least once in a windowed   all offsets committed; it closes windows
       benchmarks.stock_faust worker`` table, with changelog and RocksDB    later, off the clock
limit  ``python -m                     parses and counts in a dict; stores  all offsets committed
       benchmarks.bare_loop``          and closes nothing
====== =============================== ==================================== ==========================================

``limit`` is the loop with librdkafka's defaults; ``limit_tuned`` is the same without librdkafka's second of rest
whenever its queue is full, the one setting that matters to it. Ours is compared with both.

The clock is the same for all: it starts when the group's first committed offsets are seen, the records that those cover
are taken off, and both are seen from outside, 20 times a second. At 2,000 events/s the whole input would take stock
Faust many minutes, so it gets a topic of its own with every n-th event of the same input: the same windows, agents and
partitions, less of each.

Every peer's published windows are compared with the right totals, which follow from the input's seed. The peers take
turns, in another order each round, and the medians count. On a machine with other work only the ratios mean anything.

The last line on stdout is JSON, ``{"ours": ..., "stock": ..., "limit": ..., "limit_tuned": ..., "ours_to_stock": ...,
"ours_to_limit": ..., "ours_to_limit_tuned": ...}``, in events per second and as ratios. Exit code 1: ours or a limit
failed, or published anything but the right totals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.measuring import Contender, ContenderFailed, Job, Timing, Watcher
from benchmarks.output import Verdict, check
from benchmarks.services import broker, drop_topics
from benchmarks.workload import GRACE_MS, PARTITIONS, WINDOW_MS, Totals, Workload
from feedback_app.embedded.process import free_port
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import load_settings
from feedback_app.topics import Topics


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        arguments: what ``python`` is started with.
        windows_too: publishing the due windows is on its clock.
        patience: for how many seconds to wait, once the clock has stopped, for the first window if there was none yet.
        quiet: its output is complete when nothing has come for as many seconds.
    """

    name: str
    arguments: tuple[str, ...]
    windows_too: bool
    patience: float
    quiet: float


OURS: Final = Peer(
    "ours",
    ("-m", "faust", "-A", "benchmarks.our_worker", "worker", "-l", "warn"),
    windows_too=True,
    patience=0,
    quiet=2,
)
STOCK: Final = Peer(
    "stock",
    ("-m", "faust", "--loop", "uvloop", "-A", "benchmarks.stock_faust", "worker", "-l", "warn"),
    windows_too=False,
    # Faust looks for expired windows every 30 s unless told otherwise, for the first time a minute after its start.
    patience=70,
    quiet=35,
)
LIMIT: Final = Peer("limit", ("-m", "benchmarks.bare_loop"), windows_too=False, patience=10, quiet=2)
TUNED: Final = Peer("limit_tuned", ("-m", "benchmarks.bare_loop", "--tuned"), windows_too=False, patience=10, quiet=2)
PEERS: Final = (OURS, STOCK, LIMIT, TUNED)


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that is ready to be counted, with what a right answer holds. *prefix* is its topics' prefix."""

    prefix: str
    records: int
    totals: Totals

    @classmethod
    def send(cls, servers: str, prefix: str, workload: Workload, every: int = 1) -> Input:
        """Make the topics, and fill the one."""
        settings = load_settings(broker_url=f"kafka://{servers}", topic_prefix=prefix, partitions=PARTITIONS)
        topics = Topics.of(settings)
        # The worker makes the rest itself. These two must be there before it: one is filled, one is watched.
        ensure_topics(settings, (spec for spec in topics.specs() if spec.name in {topics.feedback, topics.aggregates}))
        records, totals = workload.send(servers, topics.feedback, every)
        return cls(prefix, records, totals)


@dataclass(frozen=True, slots=True)
class Result:
    """One peer in one round; *failure* says why it has no figure."""

    peer: Peer
    round: int
    timing: Timing | None = None
    verdict: Verdict | None = None
    failure: str = ""


def run(peer: Peer, number: int, servers: str, given: Input, directory: Path, timeout: float) -> Result:
    """Run *peer* over *given*."""
    app_id = f"{given.prefix}{peer.name}-{number}"
    settings = load_settings(topic_prefix=given.prefix, app_id=app_id, partitions=PARTITIONS)
    topics = Topics.of(settings)
    job = Job(app_id, topics.feedback, given.records, topics.aggregates, len(given.totals), PARTITIONS)
    log = directory / f"{app_id}.log"
    environment = {
        "FEEDBACK_BROKER_URL": f"kafka://{servers}",
        "FEEDBACK_APP_ID": app_id,
        "FEEDBACK_TOPIC_PREFIX": given.prefix,
        "FEEDBACK_PARTITIONS": str(PARTITIONS),
        "FEEDBACK_BATCH_TIME_MS": str(WINDOW_MS),
        "FEEDBACK_GRACE_MS": str(GRACE_MS),
        "FEEDBACK_IDLE_MS": "600000",  # the ticks' windows stay open, however slow the rest is
        "FEEDBACK_STORE_ITEMS": "false",
        "FEEDBACK_DATA_DIR": str(directory / app_id),
        "FEEDBACK_WEB_PORT": str(free_port()),
    }
    with Watcher(servers, job) as watcher, Contender(peer.arguments, environment, log) as contender:
        try:
            timing = watcher.time(contender, windows_too=peer.windows_too, timeout=timeout)
        except ContenderFailed as error:
            return Result(peer, number, failure=str(error))
        watcher.collect(patience=peer.patience, quiet=peer.quiet)
        verdict = check(watcher.published, given.totals)
        if not timing.records:
            return Result(peer, number, verdict=verdict, failure="over before its clock could start: use more events")
        return Result(peer, number, timing, verdict)


def schedule(peers: Sequence[Peer], rounds: int) -> Iterator[tuple[int, Peer]]:
    """Yield who runs when: each round in another order, stock Faust in the first one only."""
    for number in range(1, rounds + 1):
        taking_part = [peer for peer in peers if peer is not STOCK or number == 1]
        yield from ((number, peer) for peer in (taking_part if number % 2 else reversed(taking_part)))


def measure(arguments: argparse.Namespace) -> list[Result]:
    """Make the input, run everybody, and say on stderr how it goes."""
    peers = [peer for peer in PEERS if peer.name in arguments.peers]
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    results = []
    with broker(arguments.broker) as servers, tempfile.TemporaryDirectory(prefix=prefix) as directory:
        try:
            workload = Workload.just_over(arguments.events, arguments.agents)
            every = max(1, arguments.events // arguments.stock_events)
            inputs: dict[str, Input] = {}
            if STOCK in peers:
                inputs[STOCK.name] = Input.send(servers, f"{prefix}share-", workload, every)
            whole = Input.send(servers, prefix, workload)
            for number, peer in schedule(peers, arguments.rounds):
                given = inputs.get(peer.name, whole)
                result = run(peer, number, servers, given, Path(directory), arguments.timeout)
                results.append(result)
                say(line_of(result))
        finally:
            if arguments.broker is not None:
                drop_topics(servers, prefix)
    return results


def line_of(result: Result) -> str:
    """Return a table's line."""
    name = f"{result.peer.name:<12}{result.round:>5}"
    if result.timing is None:
        return f"{name}  FAILED: {result.failure}"
    timing = result.timing
    return (
        f"{name}{timing.records:>12,}{timing.counting:>10.2f}{timing.seconds:>10.2f}{timing.rate:>12,.0f}"
        f"  {result.verdict}"
    )


def medians(results: Sequence[Result]) -> Mapping[str, float | None]:
    """Return the last line's content."""
    rates: dict[str, float | None] = {}
    for peer in PEERS:
        seen = [result.timing.rate for result in results if result.peer is peer and result.timing is not None]
        rates[peer.name] = round(median(seen)) if seen else None
    for other in (STOCK, LIMIT, TUNED):
        ours, theirs = rates[OURS.name], rates[other.name]
        rates[f"ours_to_{other.name}"] = round(ours / theirs, 3) if ours and theirs else None
    return rates


def say(text: str) -> None:
    """Write to stderr: stdout is for the JSON."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description="Ours, stock Faust, a bare loop.")
    parser.add_argument("--events", type=int, help="events of the input (1,000,000)")
    parser.add_argument("--agents", type=int, help="agents (one for each 100 events)")
    parser.add_argument("--stock-events", type=int, help="how many of them stock Faust gets (50,000)")
    parser.add_argument("--rounds", type=int, help="rounds; stock Faust takes part in the first (3)")
    parser.add_argument("--quick", action="store_true", help="one round of 300,000 events, 20,000 for stock Faust")
    parser.add_argument("--broker", metavar="URL", help="a running Kafka, instead of one started here")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for each run (%(default)s)")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="who takes part (all)")
    parsed = parser.parse_args(arguments)
    for name, full, quick in (("events", 1_000_000, 300_000), ("stock_events", 50_000, 20_000), ("rounds", 3, 1)):
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else full)
    if parsed.agents is None:
        # As many events in a window, then, whatever the size of the input: closing windows costs as much as counting.
        parsed.agents = max(1, parsed.events // 100)
    return parsed


def main() -> int:
    """Measure, show, judge."""
    arguments = parse()
    say(
        f"{arguments.events:,} events, {arguments.agents:,} agents, {PARTITIONS} partitions; one in "
        f"{max(1, arguments.events // arguments.stock_events)} of them for stock Faust; Python "
        f"{platform.python_version()}, {os.cpu_count()} cores"
    )
    say(f"{'peer':<12}{'round':>5}{'events':>12}{'counted s':>10}{'done s':>10}{'events/s':>12}  windows")
    results = measure(arguments)
    figures = medians(results)
    say(f"{'':17}{'medians:':>10} " + ", ".join(f"{name} {figure:,}" for name, figure in figures.items() if figure))
    print(json.dumps(figures))
    honest = all(r.verdict is not None and r.verdict.holds for r in results if r.peer is not STOCK)
    return 0 if honest else 1


if __name__ == "__main__":
    sys.exit(main())
