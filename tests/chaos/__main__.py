"""``python -m tests.chaos``: runs the scenarios, some at a time, each in a process of its own.

It prints a line a scenario, and as its last line JSON. It exits with 0 only when nothing was lost, counted twice or
left open in any of them. With ``--breakages`` it is the other way round: every rule of the protocol is broken in turn,
and it exits with 0 only when each was noticed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson

from feedback_app.errors import FeedbackError
from tests.chaos.arena import Arena
from tests.chaos.breakages import BREAKAGES
from tests.chaos.judging import Outcome
from tests.chaos.registry import Scenario
from tests.chaos.running import Run, run_all
from tests.chaos.scenarios import SCENARIOS
from tests.services.kafka import ApacheKafka

#: The scenarios that notice each breakage: one is enough.
_NOTICED_BY = {
    "offsets-outside": "kill with a fold committed, not in RocksDB",
    "rocksdb-first": "kill with a fold produced, not committed",
    "cache-after-abort": "transactions aborted",
    "no-fence": "zombie with a fold produced, not committed",
    "changed-closed": "rebalance in a close pass",
    "floor-forgotten": "data dir wiped",
    "cursor-not-lowered": "data dir wiped",
    "cache-over-rebalance": "scale 1 to 3 to 1",
    "no-tombstones": "data dir wiped",
}


@click.command()
@click.option("--quick", is_flag=True, help="The short form: a selection.")
@click.option("--only", multiple=True, help="Scenarios whose name holds this text; may be given several times.")
@click.option("--seed", type=int, help="Makes the same choices again. [default: a new one]")
@click.option("--jobs", type=click.IntRange(min=1), default=3, show_default=True, help="Scenarios at a time.")
@click.option("--break", "broken", type=click.Choice(sorted(BREAKAGES)), help="A rule to break on purpose.")
@click.option("--breakages", is_flag=True, help="Break one rule after the other; each must be noticed.")
@click.option("--keep", is_flag=True, help="Keep logs and data.")
@click.option("--list", "as_list", is_flag=True, help="Only list the scenarios.")
@click.option("--play", hidden=True, help="Play this one scenario here, and print its outcome as JSON.")
@click.option("--broker", hidden=True, help="The url of the shared broker.")
@click.option("--directory", hidden=True, type=click.Path(path_type=Path), help="Where to work.")
def main(
    *,
    quick: bool,
    only: Sequence[str],
    seed: int | None,
    jobs: int,
    broken: str | None,
    breakages: bool,
    keep: bool,
    as_list: bool,
    play: str | None,
    broker: str | None,
    directory: Path | None,
) -> None:
    """Disturb real workers on a real Kafka as production does, and count what is lost and what is counted twice."""
    if play is not None:
        assert seed is not None
        assert directory is not None
        outcome = _play(SCENARIOS[play], seed, broker, directory, broken or "")
        sys.stdout.write(orjson.dumps(asdict(outcome)).decode() + "\n")
        return
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    if breakages:
        runs = [Run(SCENARIOS[_NOTICED_BY[rule]], seed, rule) for rule in BREAKAGES]
    else:
        chosen = [
            scenario
            for scenario in SCENARIOS.values()
            if (scenario.quick or not quick) and (not only or any(text in scenario.name for text in only))
        ]
        runs = [Run(scenario, seed, broken or "") for scenario in chosen]
    if as_list:
        for run in runs:
            click.echo(run.title)
        return
    if not runs:
        raise click.UsageError("no scenario has such a name; see --list")
    click.echo(f"seed {seed}")
    outcomes = run_all(runs, jobs, keep=keep, report=_report)
    if breakages:
        unnoticed = [run.broken for run, outcome in outcomes if outcome.holds]
        _end({"seed": seed, "breakages": len(runs), "unnoticed": unnoticed}, failed=bool(unnoticed))
    _end(_totals(seed, outcomes), failed=not all(outcome.holds for _, outcome in outcomes))


def _play(scenario: Scenario, seed: int, broker: str | None, directory: Path, broken: str) -> Outcome:
    """Play one scenario from its beginning to its comparison."""
    with ExitStack() as stack:
        kafka: ApacheKafka | str
        if scenario.own_broker or broker is None:
            kafka = stack.enter_context(ApacheKafka(directory / "kafka"))
            stack.callback(kafka.kill)
        else:
            kafka = broker
        arena = Arena(directory, seed, kafka, broken)
        stack.callback(arena.close)
        try:
            return scenario.play(arena) or arena.outcome()
        except FeedbackError as error:
            return Outcome(arena.sent, problem=error.message)


def _report(run: Run, outcome: Outcome, seconds: float) -> None:
    """Print the line of one scenario."""
    expected, otherwise = ("MISSED", "noticed") if run.broken else ("ok", "FAILED")
    verdict = expected if outcome.holds else otherwise
    click.echo(
        f"{verdict:<7} {run.title:<62} {outcome.events:>7,} events {outcome.documents:>6,} documents "
        f"{outcome.lost:>5} lost {outcome.twice:>5} twice {outcome.stale:>4} stale {seconds:6.1f} s"
    )
    if outcome.problem:
        click.echo("".join(f"       {line}\n" for line in outcome.problem.splitlines()), nl=False)


def _totals(seed: int, outcomes: Sequence[tuple[Run, Outcome]]) -> dict[str, Any]:
    return {
        "seed": seed,
        "scenarios": len(outcomes),
        "events": sum(outcome.events for _, outcome in outcomes),
        "documents": sum(outcome.documents for _, outcome in outcomes),
        "lost": sum(outcome.lost for _, outcome in outcomes),
        "twice": sum(outcome.twice for _, outcome in outcomes),
        "stale": sum(outcome.stale for _, outcome in outcomes),
        "failed": [run.title for run, outcome in outcomes if not outcome.holds],
    }


def _end(totals: dict[str, Any], *, failed: bool) -> None:
    click.echo(orjson.dumps(totals).decode())
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
