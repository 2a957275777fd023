"""How our cost changes as the work grows: ``python -m benchmarks.scale``, ``make bench-scale``.

One run, one real Kafka, each point one worker process with a sink that counts, unless said otherwise. One factor is
varied at a time, from a base point: 1,000,000 events, 10,000 agents that are all as likely as each other, windows of a
minute, 8 partitions, items off. A run off the record warms the broker up.

========== ==================================================== ================================================
part       what is varied, or asked                             what must hold
========== ==================================================== ================================================
agents     100, 10,000, 1,000,000; nothing closes               an event of the most costs at most 4 times the
                                                                CPU time of one of the fewest
skew       the same, a few of them with most of the ratings     the same
backlog    1, 5, 20 million events
window     1 s, 1 min, 5 min                                    5 min: peak below 200 MB
partitions 8, 64
events     mostly a rating; with score, tags and comment
workers    1, 2                                                 CPU time an event at most 1.1 times
items      not stored; stored, in a real database               at least 0.9 of a bare driver's upserts
                                                                a second, and of its inserts
restore    an empty disk, 1,000,000 changelog records           at least 10 times stock Faust's rate
delay      at 10, 50, 90 % of the saturated rate
probes     /health/live, pages and answers, while saturated     99 % within 200 ms
watched    nobody; a dashboard and Prometheus, while saturated  at least 0.95 of the rate
========== ==================================================== ================================================

Clocks and checks are those of ``benchmarks.compare``; items, restore, delay, probes and watched say theirs in their
modules.

The last line on stdout is JSON: the parts, and ``holds`` for each bar. ``--write`` puts tables and charts into
docs/performance.md, and what follows from them into docs/scaling.md; single parts can be measured anew, too:
``--only probes --write``. Exit code 1: something was not right, or, without ``--quick``, a bar was not met.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.report import require_charts
from benchmarks.scale import pages
from benchmarks.scale.delay import Delay
from benchmarks.scale.growth import FULL, QUICK, Growth
from benchmarks.scale.items import Items
from benchmarks.scale.probes import probes
from benchmarks.scale.restore import Restore
from benchmarks.scale.results import Part, all_hold, result
from benchmarks.scale.watched import watched
from benchmarks.services import broker, drop_topics, say

NAMES = (
    "agents",
    "skew",
    "backlog",
    "window",
    "partitions",
    "events",
    "workers",
    "items",
    "restore",
    "delay",
    "probes",
    "watched",
)

#: The plan takes one from the other, so they must be of one run. Any other part compares what it has measured itself.
TOGETHER = ("agents", "backlog")


def parts(bench: Bench, names: Sequence[str], *, quick: bool) -> Iterator[Part]:
    """Run the parts of those names."""
    growth = Growth(bench, QUICK if quick else FULL, say)
    items = Items(bench, 8_000 if quick else 90_000, 1_000, 1 if quick else 3, say)
    restore = Restore(bench, 50_000 if quick else 1_000_000, say)
    delay = Delay(bench, 200 if quick else 500, 6 if quick else 30, say)
    runs: dict[str, Callable[[], Part]] = {
        "agents": growth.agents,
        "skew": growth.skew,
        "backlog": growth.backlog,
        "window": growth.window,
        "partitions": growth.partitions,
        "events": growth.events,
        "workers": growth.workers,
        "items": lambda: items.part(growth.base("not stored")),
        "restore": restore.part,
        "delay": delay.part,
        "probes": lambda: probes(bench, growth.workload(3 * growth.size.events), say),
        "watched": lambda: watched(bench, growth.workload(), 1 if quick else 3, say),
    }
    growth.warm_up()
    for name in names:
        yield runs[name]()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="How our cost changes as the work grows."
    )
    parser.add_argument("--quick", action="store_true", help="a small version of everything")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--broker", metavar="URL", help="a running Kafka, instead of one started here")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for each wait (%(default)s)")
    parser.add_argument(
        "--write", action="store_true", help=f"put the result into docs; of {' and '.join(TOGETHER)} both or none"
    )
    parsed = parser.parse_args(arguments)
    if parsed.write and len({*TOGETHER} & {*(parsed.only or TOGETHER)}) == 1:
        parser.error(f"--write takes {' and '.join(TOGETHER)} of one run only: what follows needs both")
    return parsed


def main() -> int:
    """Measure, show, judge."""
    arguments = parse()
    if arguments.write:
        require_charts()
        if arguments.only:
            pages.whole_run(quick=arguments.quick)  # before minutes of measuring, not behind them
    prefix = f"scale-{uuid.uuid4().hex[:8]}-"
    measured: list[Part] = []
    with broker(arguments.broker) as servers, tempfile.TemporaryDirectory(prefix=prefix) as directory:
        bench = Bench(servers, prefix, Path(directory), arguments.timeout)
        try:
            for part in parts(bench, arguments.only or NAMES, quick=arguments.quick):
                say(part.text())
                measured.append(part)
        finally:
            if arguments.broker is not None:
                drop_topics(servers, prefix)
    told = result(measured, quick=arguments.quick)
    if arguments.write:
        write = pages.write_parts if arguments.only else pages.write
        write(measured, told)
    print(json.dumps(told))
    right = all(part.right for part in measured)
    return 0 if right and (arguments.quick or all_hold(measured)) else 1


if __name__ == "__main__":
    sys.exit(main())
