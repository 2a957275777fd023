"""Ours against its peers: ``python -m benchmarks.compare``, ``make bench``.

One run, one real Kafka, one input topic: events of ten one-minute windows of event time, in 8 partitions, in the order
of their times but for a disorder of 2 s, then a tick in each partition that makes every window before it due. Who takes
part, and what each of them does, is in ``benchmarks.contenders``. They take turns, in another order each round, and the
medians count: on a machine with other work only the ratios mean anything. What comes before them is off the record, a
whole round where there are several: the broker compiles its code for minutes, on the cores of who is timed.

The clock is the same for all, and seen from outside, 20 times a second (``benchmarks.measuring``). It starts when the
group's first committed offsets are seen, and the records that those cover are taken off; it stops when every due window
is published, readable with ``read_committed``. The bare loops close nothing and stock Faust closes windows later, so
theirs stops when all offsets are committed. At 2,000 events/s the whole input would take stock Faust many minutes, so
it gets a topic of its own with every n-th event of the same input: the same windows, agents and partitions, less of
each.

Every peer's published windows are compared with the right totals, which follow from the input's seed; a peer that loses
windows is shown as such.

The last line on stdout is JSON: each contender's events per second, and ``ratios``: ours to each of the others, and
``cpu_of_two``, the CPU time an event of two workers to that of one. ``--write`` puts the result, a table and a chart
into docs/performance.md. Exit code 1: ours or a bare loop failed, or published anything but the right totals.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.bench import TOO_FEW, Input, worker_settings
from benchmarks.contenders import BARS, MUST_BE_RIGHT, OURS, PEERS, Peer
from benchmarks.measuring import Contender, ContenderFailed, Member, Timing, Watcher
from benchmarks.output import Verdict, check
from benchmarks.services import broker, drop_topics, say
from benchmarks.workload import PARTITIONS, Workload
from feedback_app.embedded.worker import environment


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
    prefix = given.settings.topic_prefix
    app_id = f"{prefix}{peer.name}-{number}"
    job = given.job(group=app_id, members=peer.members, commits=peer.commits)
    command = peer.command()

    def member(index: int) -> Member:
        unique = directory / f"{app_id}-{index}"
        settings = worker_settings(servers, app_id, unique, topic_prefix=prefix)
        return Member(command, dict(environment(settings)), unique.with_name(f"{unique.name}.log"))

    with Watcher(servers, job) as watcher, Contender([member(index) for index in range(peer.members)]) as contender:
        try:
            timing = watcher.time(contender, windows_too=peer.windows, timeout=timeout)
        except ContenderFailed as error:
            return Result(peer, number, verdict=check(watcher.published, given.totals), failure=str(error))
        watcher.collect(patience=peer.patience, quiet=peer.quiet)
        verdict = check(watcher.published, given.totals)
        if not timing.records:
            return Result(peer, number, verdict=verdict, failure=TOO_FEW)
        return Result(peer, number, timing, verdict)


def schedule(peers: Sequence[Peer], rounds: int) -> Iterator[tuple[int, Peer]]:
    """Yield who runs when: each round in another order, the slow ones in the first one only.

    Round 0 is off the record: it warms the broker up. Before a single round that has to do with a run of ours.
    """
    for number in range(rounds + 1):
        taking_part = [peer for peer in peers if number == 1 or not peer.share]
        if number == 0 and rounds == 1:
            taking_part = [OURS]
        yield from ((number, peer) for peer in (taking_part if number % 2 else reversed(taking_part)))


def measure(arguments: argparse.Namespace) -> list[Result]:
    """Make the input, run everybody, and say on stderr how it goes."""
    peers = [peer for peer in PEERS if peer.name in arguments.peers]
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    results = []
    with broker(arguments.broker) as servers, tempfile.TemporaryDirectory(prefix=prefix) as directory:
        try:
            workload = Workload.just_over(arguments.events, arguments.agents)

            def send(prefix: str, workload: Workload, every: int = 1) -> Input:
                settings = worker_settings(servers, prefix, Path(directory), topic_prefix=prefix)
                return Input.send(settings, workload, every)

            whole = send(prefix, workload)
            share = whole
            if any(peer.share for peer in peers):
                every = max(1, arguments.events // arguments.stock_events)
                share = send(f"{prefix}share-", workload, every)
            for number, peer in schedule(peers, arguments.rounds):
                given = share if peer.share else whole
                result = run(peer, number, servers, given, Path(directory), arguments.timeout)
                if number:
                    results.append(result)
                say(line_of(result))
        finally:
            if arguments.broker is not None:
                drop_topics(servers, prefix)
    return results


def line_of(result: Result) -> str:
    """Return a table's line."""
    name = f"{result.peer.name:<22}{result.round:>6}"
    if result.timing is None:
        return f"{name}  FAILED: {result.failure} {result.verdict or ''}"
    timing = result.timing
    return (
        f"{name}{timing.records:>12,}{timing.seconds:>9.2f}{timing.rate:>12,.0f}{timing.cpu_us:>9.2f}"
        f"{timing.used.peak_mb:>9.0f}  {result.verdict}"
    )


def figures_of(results: Sequence[Result]) -> list[report.Figure]:
    """Return what is known of each peer that took part."""
    figures = []
    for peer in PEERS:
        own = [result for result in results if result.peer is peer]
        if own:
            timings = [result.timing for result in own if result.timing is not None]
            verdict = own[-1].verdict
            figures.append(
                report.Figure(
                    name=peer.name,
                    what=peer.what,
                    rates=[timing.rate for timing in timings],
                    cpu_us=[timing.cpu_us for timing in timings],
                    peak_mb=[timing.used.peak_mb for timing in timings],
                    windows=str(verdict) if peer.windows or peer.share else "",
                )
            )
    return figures


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Ours against its peers.")
    parser.add_argument("--events", type=int, help="events of the input (1,000,000)")
    parser.add_argument("--agents", type=int, help="agents (one for each 100 events)")
    parser.add_argument("--stock-events", type=int, help="how many of them stock Faust gets (50,000)")
    parser.add_argument("--rounds", type=int, help="rounds; stock Faust takes part in the first (3)")
    parser.add_argument("--quick", action="store_true", help="one round of 300,000 events, 20,000 for stock Faust")
    parser.add_argument("--broker", metavar="URL", help="a running Kafka, instead of one started here")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for each run (%(default)s)")
    names = [peer.name for peer in PEERS]
    parser.add_argument(
        "--peers", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--write", action="store_true", help="put the result into docs/performance.md")
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
    if arguments.write:
        report.require_charts()
    say(
        f"{arguments.events:,} events, {arguments.agents:,} agents, {PARTITIONS} partitions, {os.cpu_count()} cores; "
        f"stock Faust gets one event in {max(1, arguments.events // arguments.stock_events)}"
    )
    say(f"{'peer':<22}{'round':>6}{'events':>12}{'seconds':>9}{'events/s':>12}{'CPU us':>9}{'peak MB':>9}  windows")
    results = measure(arguments)
    comparison = report.Comparison(
        events=arguments.events, agents=arguments.agents, rounds=arguments.rounds, figures=figures_of(results)
    )
    for line in comparison.against(BARS):
        say(line)
    if arguments.write:
        report.write(comparison)
    print(json.dumps(comparison.summary()))
    judged = [result for result in results if result.peer.name in MUST_BE_RIGHT]
    return 0 if all(result.verdict is not None and result.verdict.holds for result in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
