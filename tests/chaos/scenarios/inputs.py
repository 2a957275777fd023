"""Silence, wrong clocks, floods, changed settings, and an input that is not the one it was."""

from __future__ import annotations

from tests.chaos.arena import Arena
from tests.chaos.fleet import ScenarioFailed
from tests.chaos.judging import Outcome
from tests.chaos.registry import scenario
from tests.chaos.stream import Mix

_DAY_MS = 24 * 3600 * 1000


@scenario("partitions go silent before their windows close", quick=True)
def partitions_go_silent(arena: Arena) -> None:
    """What is open on them closes by the wall clock, while the others are busy."""
    worker = arena.at_work(800)
    silent = {0, 2}
    arena.stream.silent |= silent
    patience = worker.settings.batch_time_ms + worker.settings.grace_ms + worker.settings.idle_ms
    arena.fleet.rest(2 + patience / 1000)
    arena.fleet.until(lambda: not arena.open_windows(silent), "nothing is open on silent partitions")
    arena.stream.silent -= silent
    arena.until_sent(1_000)


@scenario("a worker's clock far ahead")
def clock_far_ahead(arena: Arena) -> None:
    """A day ahead, and with a worker beside it whose clock is right."""
    first, second = arena.worker(), arena.worker()
    first.begin(clock_ms=_DAY_MS)
    arena.begin_traffic()
    arena.fleet.until_ready(first)
    arena.until_sent(800)
    second.begin()
    arena.fleet.until_balanced([first, second])
    arena.until_sent(1_000)
    first.end()
    arena.fleet.until_balanced([second])
    arena.until_sent(1_000)


@scenario("a flood of invalid events")
def flood_of_invalid_events(arena: Arena) -> None:
    worker = arena.at_work(10_000, pace=4_000, mix=Mix(invalid=0.9))
    worker.crash()
    arena.until_sent(5_000)


@scenario("settings changed between runs")
def settings_changed(arena: Arena) -> None:
    """Window size, grace, retention and mode go up and down; what is open closes as it was begun.

    The retention stays at or below what the traffic was labelled for: a longer one would make late events count. What
    was forwarded is not trimmed, for the verifier must know by which size it was counted.
    """
    arena.worker().begin(trim_s=3_600)
    arena.begin_traffic()
    arena.fleet.until_ready()
    for changes in (
        {"batch_time_ms": 3_000, "batching_mode": "global"},
        {"batch_time_ms": 1_000, "grace_ms": 4_000},
        {"batch_time_ms": 2_000, "grace_ms": 1_000, "retention_ms": 120_000, "batching_mode": "agent"},
        {"retention_ms": 160_000, "batching_mode": "hybrid"},
    ):
        arena.until_sent(1_300)
        last = arena.fleet.workers[-1]
        last.end()
        arena.configure(**changes)
        worker = arena.worker(arena.settings().model_copy(update={"data_dir": last.settings.data_dir}))
        worker.begin(trim_s=3_600)
        arena.fleet.until_ready(worker)
    arena.until_sent(1_300)


@scenario("the input topic deleted and made anew")
def input_made_anew(arena: Arena) -> Outcome:
    """A clear refusal to start, even where the new topic has grown past the old one's offsets."""
    worker = arena.at_work(1_000)
    outcome = arena.outcome()
    worker.end()
    arena.delete_topic(arena.topics.feedback)
    already = arena.stream.sent
    arena.begin_traffic(pace=10_000)
    arena.until_sent(2 * already)
    worker.begin()
    arena.fleet.until(worker.died, "the worker refuses to start", tended=False)
    told = worker.end_of_log()
    if "made anew" not in told or "Traceback" in told:
        raise ScenarioFailed(f"the worker does not say that the topic was made anew:\n{told}")
    return outcome
