"""Why the application has a table of its own: the stock one loses windows, on the same input, and ours does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measuring import Contender, Job, Member, Watcher
from benchmarks.output import check
from benchmarks.workload import GRACE_MS, PARTITIONS, WINDOW_MS, Totals, Workload
from feedback_app.embedded.worker import environment
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics

MakeSettings = Callable[..., Settings]

# 40 agents in 8 partitions, 5 windows of a minute, 3,000 events, long past; then a tick in each partition:
#
#   event time   0        1        2        3        4        5 min      + grace
#   partition 0  |--------|--------|--------|--------|--------|          tick: watermark = 5 min, all five are due
#   ...          |        |        |        |        |        |
#   partition 7  |--------|--------|--------|--------|--------|          tick
_EVENTS = 3_000
_AGENTS = 40
_WINDOWS = 5

#: For stock Faust's cleaning task, which closes windows: it sleeps twice before it looks for the first time.
_CLEANUP_SECONDS = 5


@pytest.fixture
def configured(kafka: str, settings: MakeSettings) -> Settings:
    return settings(kafka, partitions=PARTITIONS, batch_time_ms=WINDOW_MS, grace_ms=GRACE_MS)


@pytest.fixture
def given(configured: Settings) -> tuple[Job, Totals]:
    """The input on its topic, what there is to do, and what a right answer holds."""
    topics = Topics.of(configured)
    ensure_topics(configured, topics.specs())
    workload = Workload.just_over(_EVENTS, _AGENTS, _WINDOWS)
    records, totals = workload.send(configured.bootstrap_servers, topics.feedback)
    assert len(totals) == _AGENTS * _WINDOWS
    return Job(configured.app_id, topics.feedback, records, topics.aggregates, len(totals), PARTITIONS), totals


def _environment(settings: Settings) -> dict[str, str]:
    return {**dict(environment(settings)), "TABLE_CLEANUP_INTERVAL": str(_CLEANUP_SECONDS)}


@pytest.mark.slow
def test_stock_table_counts_everything_and_never_closes_most_of_it(
    configured: Settings, given: tuple[Job, Totals], tmp_path: Path
) -> None:
    job, totals = given
    worker = (sys.executable, "-m", "faust", "-A", "benchmarks.stock_faust", "worker", "-l", "info")
    with (
        Watcher(configured.bootstrap_servers, job) as watcher,
        Contender([Member(worker, _environment(configured), tmp_path / "log")]) as stock,
    ):
        watcher.time(stock, windows_too=False, timeout=120)  # so it has read every record, and committed that
        watcher.collect(patience=10 * _CLEANUP_SECONDS, quiet=3 * _CLEANUP_SECONDS)
        assert not stock.ended, stock.last_words()
    verdict = check(watcher.published, totals)
    assert watcher.published, "its callback was never called at all: this would show nothing"
    # The first partition to be cleaned closes its windows; the same windows of the other seven are dropped.
    assert verdict.missing > verdict.due // 2, verdict


def test_our_table_closes_every_window_exactly_once(
    configured: Settings, given: tuple[Job, Totals], tmp_path: Path
) -> None:
    job, totals = given
    worker = (sys.executable, "-m", "faust", "-A", "feedback_app", "worker", "-l", "info")
    with (
        Watcher(configured.bootstrap_servers, job) as watcher,
        Contender([Member(worker, _environment(configured), tmp_path / "log")]) as ours,
    ):
        watcher.time(ours, windows_too=True, timeout=120)
        watcher.collect(patience=0, quiet=5)  # whatever it might publish twice
        assert not ours.ended, ours.last_words()
    verdict = check(watcher.published, totals)
    assert verdict.holds, verdict
