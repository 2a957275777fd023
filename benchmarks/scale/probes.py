"""How long a busy worker takes to answer: ``/health/live``, and what people and programs look at.

Asked from a process of its own, one after the other, a new connection each time, as an orchestrator does. The sink only
counts here, so what comes from the database (``/feedback/agents``, an agent's recent windows) is not looked at.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from benchmarks.bench import Bench, Point
from benchmarks.scale.asking import answers_ok
from benchmarks.scale.beside import Stopped, beside
from benchmarks.scale.results import FAILURES, Bar, Part, Spread, failed
from benchmarks.workload import Workload

MOST_P99_MS: Final = 200.0

_LIVE: Final = "/health/live"
_AGENT: Final = "/feedback/agents/{id}"
_PAGES: Final = (
    _LIVE,
    "/metrics",
    "/feedback/",
    "/feedback/overview",
    "/feedback/history",
    "/feedback/partitions",
    "/feedback/dead-letters",
    _AGENT,
)

_PAUSE_S: Final = 0.02


class Answer(NamedTuple):
    """One request: which page, when it was asked for (``time.monotonic``), seconds, and whether it was answered."""

    page: str
    at: float
    seconds: float
    good: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """A page's row."""

    name: str
    delay: Spread
    failure: str = ""

    def cells(self) -> Mapping[str, str]:
        return {
            "requests": f"{self.delay.samples:,}",
            "median ms": f"{self.delay.median_ms:.1f}",
            "99% within ms": f"{self.delay.p99_ms:.1f}",
        }


def probes(bench: Bench, workload: Workload, say: Callable[[str], None]) -> Part:
    """Ask a worker that counts a backlog, from the start of its clock to the end."""
    within: list[Answer] = []
    try:
        given = bench.prepare("probes", workload)
        ours = given.settings
        with beside(partial(_ask, ours.web_host, ours.web_port, workload.agents)) as answers:
            point = bench.measure("probes", given)
            within = [answer for answer in answers() if 0 <= answer.at - point.began <= point.seconds]
    except FAILURES as error:
        say(f"probes: {error}")
        point = Point("probes", failure=failed(error))
    rows = [_row(page, [answer for answer in within if answer.page == page], point.failure) for page in _PAGES]
    live, slowest = rows[0], max(rows[1:], key=lambda row: row.delay.p99_ms)
    bars = [
        Bar("live_p99_ms", f"99% of {live.name} within ms", live.delay.p99_ms or None, MOST_P99_MS),
        Bar("page_p99_ms", f"99% of the slowest, {slowest.name}, within ms", slowest.delay.p99_ms or None, MOST_P99_MS),
    ]
    return Part("probes", f"pages of a worker that counts {point.rate:,.0f} events/s", rows, bars)


def _row(page: str, asked: list[Answer], failure: str) -> Answers:
    bad = sum(not answer.good for answer in asked)
    problem = f"{bad} were not answered with 200" if bad else "" if asked else "never asked"
    return Answers(page, Spread.of(answer.seconds for answer in asked), failure or problem)


def _ask(host: str, port: int, agents: int, stopped: Stopped) -> list[Answer]:
    """Ask until told to stop."""
    answers = []
    rng = random.Random(1)
    while not stopped():
        agent = f"agent-{rng.randrange(agents):05d}"
        for page in _PAGES:
            started = time.monotonic()
            good = answers_ok(host, port, page.format(id=agent))
            answers.append(Answer(page, started, time.monotonic() - started, good))
        time.sleep(_PAUSE_S)
    return answers
