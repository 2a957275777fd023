"""The four architectures of the migration path: ``python -m benchmarks.architectures``, ``make bench-architectures``.

One run, one real Kafka, one real database (SecantusDB over MongoDB's wire protocol), and for those that share their
batches a real Redis. Each architecture runs as processes of its own that read the same topic and write the same window
documents; v1 and v2 are one instance by design, Redis and this application run as one and as two.

========= ==============================================================================================================
part      what happens
========= ==============================================================================================================
sustained a backlog is worked off: events/s, calls and operations an event, memory, batches, timers
memory    10,000 agents' batches, nearly full, none due: what they take
live      events at a rate: whether it keeps up, and how late they are written
kill      the same, and the first instance gets SIGKILL in the middle and is started again: lost, counted twice
========= ==============================================================================================================

Wherever nobody is killed, the documents are recounted from the input, by ``feedback_app.verification`` for all four,
and must hold exactly that.

The last line on stdout is JSON. ``--quick`` takes one rate and one number of agents.
``--write`` puts the result into docs/migration.md, with
``--only`` that part's. Exit code 1: totals were wrong that nothing had disturbed, or ours
has lost or counted twice; with a whole run also: a bar was not met.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.architectures import pages
from benchmarks.architectures.contenders import (
    ARCHITECTURES,
    OURS,
    OURS_2,
    REDIS,
    REDIS_2,
    V1,
    V2,
    V2_GLOBAL,
    Architecture,
)
from benchmarks.architectures.live import Live, live
from benchmarks.architectures.memory import Held, held
from benchmarks.architectures.place import Place
from benchmarks.architectures.results import kill_bars, plainly, rate_bars
from benchmarks.architectures.sustained import Sustained, sustained
from benchmarks.report import require_charts
from benchmarks.scale.results import FAILURES, Part, Row, all_hold, failed, result
from benchmarks.services import broker, drop_topics, say
from feedback_app.embedded.database import EmbeddedDatabase

NAMES: Final = ("sustained", "memory", "live", "kill")

_Row = TypeVar("_Row", bound=Row)

#: Windows of the backlog that this application gets: one would be over before its clock could start.
_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each.

    Attributes:
        events: of a window of the backlog.
        slow_events: the same for those whose calls follow from their events alone.
        agents: numbers of agents of the backlogs; the last is that of memory and traffic too.
        rates: of live traffic; of the last, somebody is killed.
        slow_rate: what v1 can do is less than any rate that would show something of the others.
        seconds: of traffic.
    """

    events: int
    slow_events: int
    agents: Sequence[int]
    rates: Sequence[float]
    slow_rate: float
    seconds: float
    held_agents: int = 10_000
    live_agents: int = 1_000


FULL: Final = Size(100_000, 1_000, (100, 1_000, 10_000), (200, 2_000), 100, 10)
QUICK: Final = Size(50_000, 800, (1_000,), (500,), 100, 9)


@dataclass(frozen=True, slots=True)
class Run:
    """All parts."""

    place: Place
    size: Size
    quick: bool

    def sustained(self) -> Part:
        """Work off backlogs."""
        rows: list[Sustained] = []
        middle = self.size.agents[len(self.size.agents) // 2]
        for agents in self.size.agents:
            # Two instances share the two cores with everything else: what they show, one number of agents shows.
            both = ARCHITECTURES if agents == middle else (V1, V2, REDIS, OURS)
            modes = (V2_GLOBAL,) if agents == middle and not self.quick else ()
            rows += [self._backlog(each, agents) for each in (*both, *modes)]
        return Part("sustained", "architecture", rows, list(rate_bars(rows)))

    def _backlog(self, each: Architecture, agents: int) -> Sustained:
        events = self.size.slow_events if each.slow else self.size.events
        return self._try(
            lambda: sustained(self.place, each, events, agents, _WINDOWS if each.ours else 1),
            lambda failure: Sustained(each.name, each.what, agents, failure=failure),
        )

    def memory(self) -> Part:
        """Hold batches: as many events of each agent as stay below a full batch."""
        rows = [self._held(each, events) for each, events in ((V1, 5), (V2, 30), (REDIS, 30), (OURS, 30))]
        return Part("memory", "architecture", rows)

    def _held(self, each: Architecture, events: int) -> Held:
        agents = self.size.held_agents
        return self._try(
            lambda: held(self.place, each, agents, events),
            lambda failure: Held(each.name, each.what, agents, agents * events, failure=failure),
        )

    def live(self) -> Part:
        """Keep up with rates."""
        return Part(
            "live", "architecture", [self._traffic(each, rate) for each, rate in self._rates()], sound="measured"
        )

    def _rates(self) -> Iterator[tuple[Architecture, float]]:
        for each in (V1, V2, REDIS, OURS):
            yield from ((each, rate) for rate in self.size.rates)

    def kill(self) -> Part:
        """Kill in the middle."""
        killed = (V1, V2, REDIS_2, OURS_2) if self.quick else (V1, V2, REDIS, REDIS_2, OURS, OURS_2)
        rows = [self._traffic(each, self.size.slow_rate if each is V1 else 500, kill=True) for each in killed]
        for line in plainly(rows):
            self.place.say(line)
        return Part("kill", "architecture", rows, list(kill_bars(rows)), sound="measured")

    def _traffic(self, each: Architecture, rate: float, *, kill: bool = False) -> Live:
        agents = self.size.live_agents
        return self._try(
            lambda: live(self.place, each, rate, agents, self.size.seconds, kill=kill),
            lambda failure: Live(each.name, each.what, rate, agents, killed=kill, failure=failure),
        )

    def _try(self, measure: Callable[[], _Row], otherwise: Callable[[str], _Row]) -> _Row:
        """Return what *measure* returns; or the row that says why there is nothing: the others go on."""
        try:
            row = measure()
        except FAILURES as error:
            self.place.say(str(error))
            row = otherwise(failed(error))
        shown = ", ".join(f"{heading} {value}" for heading, value in row.cells().items() if value)
        self.place.say(f"  {row.name}: {shown} {row.failure}")
        return row


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.architectures", description="The four architectures of the migration path."
    )
    parser.add_argument("--quick", action="store_true", help="one rate, one number of agents")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="PART", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--broker", metavar="URL", help="a running Kafka, instead of one started here")
    parser.add_argument("--timeout", type=float, default=180, metavar="SECONDS", help="for each wait (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put the result into docs/migration.md")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, show, judge."""
    arguments = parse()
    if arguments.write:
        require_charts()
    prefix = f"arch-{uuid.uuid4().hex[:8]}-"
    measured: list[Part] = []
    with (
        broker(arguments.broker) as servers,
        EmbeddedDatabase() as database,
        tempfile.TemporaryDirectory(prefix=prefix) as directory,
    ):
        place = Place(servers, database, prefix, Path(directory), say, arguments.timeout)
        run = Run(place, QUICK if arguments.quick else FULL, arguments.quick)
        try:
            for name in arguments.only or NAMES:
                part: Part = getattr(run, name)()
                say(part.text())
                measured.append(part)
        finally:
            if arguments.broker is not None:
                drop_topics(servers, prefix)
    told = result(measured, quick=arguments.quick)
    if arguments.write:
        pages.write(measured)
    print(json.dumps(told))
    right = all(part.right for part in measured)
    harmless = all_hold(measured, "kill")
    return 0 if right and harmless and (arguments.quick or all_hold(measured)) else 1


if __name__ == "__main__":
    sys.exit(main())
