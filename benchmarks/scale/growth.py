"""One factor at a time, from a base point: agents, backlog, window size, partitions, what events hold, workers.

Wherever windows close, each that was due must be published once, with the right count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from benchmarks.bench import Bench, Point
from benchmarks.scale.results import Bar, Part, attempt, ratio
from benchmarks.scale.topics import contents
from benchmarks.workload import Workload
from feedback_app.topics import Topics

MOST_CPU_OF_MANY_AGENTS: Final = 4.0
MOST_MB_OF_LONG_WINDOWS: Final = 200.0
MOST_CPU_OF_TWO: Final = 1.1

_EVENTS_IN_A_WINDOW: Final = 10
#: The part of the base point's events that a run off the record gets.
_WARM_UP: Final = 3
#: How much event time the window sizes are compared over: ten windows of a minute, as the base point has.
_SPAN_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        events: of the base point.
        agents: of the base point.
        few_agents: the fewest.
        many_agents: the most.
        backlogs: in events; the first is the base point's.
        partitions: the most.
    """

    events: int = 1_000_000
    agents: int = 10_000
    few_agents: int = 100
    many_agents: int = 1_000_000
    backlogs: Sequence[int] = (1_000_000, 5_000_000, 20_000_000)
    partitions: int = 64


FULL: Final = Size()
QUICK: Final = Size(200_000, 2_000, 100, 200_000, (200_000, 400_000), 16)


@dataclass(slots=True)
class Growth:
    """The parts; the base point, which most of them begin with, is measured once."""

    bench: Bench
    size: Size
    say: Callable[[str], None]
    _base: Point | None = field(default=None, init=False)

    def warm_up(self) -> None:
        """Run once off the record: a broker that is new compiles its own code, and the first point would pay for it."""
        self._backlog("warm", self.workload(self.size.events // _WARM_UP))

    def base(self, name: str = "base") -> Point:
        """Return the base point, under *name*."""
        if self._base is None:
            self._base = self._backlog("base", self.workload())
        return replace(self._base, name=name)

    def agents(self) -> Part:
        """Vary the agents, all as likely as each other: with the most, nearly every event opens a window."""
        return self._agents("agents", "agents, nothing closes", skewed=False)

    def skew(self) -> Part:
        """Vary the agents, where a few of them get most of the ratings."""
        return self._agents("skew", "agents, some more likely than others", skewed=True)

    def _agents(self, name: str, what: str, *, skewed: bool) -> Part:
        """Vary the agents; nothing closes, so that the events alone are compared."""
        size = self.size
        points = []
        for agents in (size.few_agents, size.agents, size.many_agents):
            workload = Workload.just_over(size.events, agents, 1, skewed=skewed)
            points.append(self._backlog(f"{name}-{agents}", workload, f"{agents:,}", closes=False))
        bar = Bar(
            f"{name}_cpu",
            f"CPU time an event of {points[-1].name} agents to one of {points[0].name}",
            ratio(points[-1].cpu_us, points[0].cpu_us),
            MOST_CPU_OF_MANY_AGENTS,
        )
        return Part(name, what, points, [bar])

    def backlog(self) -> Part:
        """Vary how much lies on the topic."""
        first, *others = self.size.backlogs
        points = [self.base(f"{first:,}")]
        points += [self._backlog(f"backlog-{events}", self.workload(events), f"{events:,}") for events in others]
        return Part("backlog", "backlog, events", points, facts=self._facts() if points[0].records else None)

    def window(self) -> Part:
        """Vary the window size over the same ten minutes of event time: the smaller, the more windows close."""

        def point(name: str, seconds: int) -> Point:
            window_ms = 1_000 * seconds
            workload = Workload.just_over(
                self.size.events, self.size.agents, _SPAN_MS // window_ms, window_ms=window_ms
            )
            return self._backlog(f"window-{seconds}", workload, name)

        points = [point("1 s", 1), self.base("1 min"), point("5 min", 300)]
        peak = points[-1].peak_mb
        bar = Bar("long_windows_mb", "peak MB with windows of five minutes", peak or None, MOST_MB_OF_LONG_WINDOWS)
        return Part("window", "window", points, [bar])

    def partitions(self) -> Part:
        """Vary the partitions."""
        many = self.size.partitions
        more = self._backlog(f"partitions-{many}", self.workload(partitions=many), str(many))
        return Part("partitions", "partitions", [self.base("8"), more])

    def events(self) -> Part:
        """Vary what an event holds."""
        talkative = self._backlog("talkative", self.workload(talkative=True), "with tags and comment")
        return Part("events", "events", [self.base("the usual"), talkative])

    def workers(self) -> Part:
        """Vary the processes that share the partitions."""
        one = self.base("1")
        two = self._backlog("workers-2", self.workload(), "2", workers=2)
        bar = Bar(
            "workers_cpu", "CPU time an event of two workers to one", ratio(two.cpu_us, one.cpu_us), MOST_CPU_OF_TWO
        )
        return Part("workers", "workers", [one, two], [bar])

    def workload(self, events: int | None = None, **shape: Any) -> Workload:
        """Return the base point's workload, or one like it: with ten events in a window of an agent."""
        events = events or self.size.events
        windows = max(1, events // (_EVENTS_IN_A_WINDOW * self.size.agents))
        return Workload.just_over(events, self.size.agents, windows, **shape)

    def _facts(self) -> dict[str, float]:
        """Return what the base point has left on its topics: bytes and records, for the plan."""
        settings = self.bench.settings("base")
        topics = Topics.of(settings)
        events, windows, changelog = (
            contents(self.bench.servers, topic, settings.partitions)
            for topic in (topics.feedback, topics.aggregates, topics.changelog)
        )
        return {
            "event_bytes": events.size / max(1, events.records),
            "aggregated_event_bytes": windows.size / max(1, windows.records),
            "events_a_transaction": events.records / max(1, changelog.transactions),
        }

    def _backlog(self, unique: str, workload: Workload, name: str = "", **how: Any) -> Point:
        point = attempt(name or unique, partial(self.bench.backlog, unique, workload, **how), self.say)
        return replace(point, name=name or unique)
