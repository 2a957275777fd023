"""Runs scenarios, some at a time, each in a process of its own: what one leaves behind can't disturb another."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from tests.chaos.judging import Outcome
from tests.chaos.registry import Scenario
from tests.services.kafka import ApacheKafka

_LONGEST_S: Final = 600
_LAST_WORDS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario to run, and the rule that is broken meanwhile, if any."""

    scenario: Scenario
    seed: int
    broken: str = ""

    @property
    def title(self) -> str:
        return f"{self.broken}: {self.scenario.name}" if self.broken else self.scenario.name


Report = Callable[[Run, Outcome, float], None]


def run_all(runs: Sequence[Run], jobs: int, *, keep: bool, report: Report) -> list[tuple[Run, Outcome]]:
    """Run *runs*, *jobs* at a time, and return their outcomes in their order.

    Args:
        keep: keep what the scenarios wrote, and say where.
        report: is told of each as soon as it has ended.
    """
    with ExitStack() as stack:
        if keep:
            directory = Path(tempfile.mkdtemp(prefix="chaos-"))
            sys.stderr.write(f"logs and data: {directory}\n")
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        broker = stack.enter_context(ApacheKafka(directory / "kafka"))
        stack.callback(broker.kill)

        def play(number: int, run: Run) -> Outcome:
            started = time.monotonic()
            outcome = _play(run, broker.url, directory / str(number))
            report(run, outcome, time.monotonic() - started)
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            futures = {number: pool.submit(play, number, runs[number]) for number in _spread(runs, jobs)}
            return [(run, futures[number].result()) for number, run in enumerate(runs)]


def _spread(runs: Sequence[Run], jobs: int) -> list[int]:
    """Return an order in which those with a broker of their own begin early, for they take longest, and not at once:
    three brokers are too much for a small machine."""
    alone = [number for number, run in enumerate(runs) if run.scenario.own_broker]
    order = [number for number, run in enumerate(runs) if not run.scenario.own_broker]
    for position, number in enumerate(alone):
        order.insert(position * 4 * jobs, number)
    return order


def _play(run: Run, broker: str, directory: Path) -> Outcome:
    directory.mkdir()
    command = [sys.executable, "-m", "tests.chaos", "--play", run.scenario.name, "--seed", str(run.seed)]
    command += ["--broker", broker, "--directory", str(directory)]
    if run.broken:
        command += ["--break", run.broken]
    errors = directory / "errors"
    try:
        with errors.open("wb") as stderr:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"it took longer than {_LONGEST_S} s\n{_end_of(errors)}")
    if done.returncode != 0:
        return Outcome(problem=f"it ended with {done.returncode}\n{_end_of(errors)}")
    return Outcome(**orjson.loads(done.stdout.splitlines()[-1]))


def _end_of(file: Path) -> str:
    return file.read_text(errors="replace")[-_LAST_WORDS:]
