"""Data dirs that are lost, reused, old or full, and changelogs that were compacted."""

from __future__ import annotations

import shutil

from tests.chaos.arena import Arena
from tests.chaos.fleet import ChaosWorker, ScenarioFailed
from tests.chaos.registry import scenario


def _at_work(arena: Arena) -> ChaosWorker:
    worker = arena.worker()
    worker.begin()
    arena.begin_traffic()
    arena.fleet.until_ready(worker)
    arena.until_sent(800)
    return worker


@scenario("data dir wiped", quick=True)
def data_dir_wiped(arena: Arena) -> None:
    worker = _at_work(arena)
    worker.crash()
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(800)


@scenario("data dir of a killed worker reused")
def data_dir_reused(arena: Arena) -> None:
    """Another worker starts on what a killed one has left, after a third has worked on."""
    killed = _at_work(arena)
    killed.crash()
    killed.wanted = False
    between = arena.worker()
    between.begin()
    arena.fleet.until_ready(between)
    arena.until_sent(800)
    between.end()
    heir = arena.worker(arena.settings().model_copy(update={"data_dir": killed.settings.data_dir}))
    heir.begin()
    arena.fleet.until_ready(heir)
    arena.until_sent(1_000)


@scenario("an old copy of a data dir put back")
def old_copy_put_back(arena: Arena) -> None:
    worker = _at_work(arena)
    worker.end()
    data, copy = worker.settings.data_dir, worker.settings.data_dir.with_name("copy")
    shutil.copytree(data, copy)
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(3_000)
    worker.crash()
    shutil.rmtree(data)
    copy.rename(data)
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(1_000)


@scenario("a disk with no space left")
def no_space_left(arena: Arena) -> None:
    """RocksDB can't write: the worker ends, with a line that says so, until there is space again."""
    worker = arena.worker()
    worker.begin(file_bytes=200_000)
    arena.begin_traffic()
    arena.fleet.until(worker.died, "the worker has ended for want of space", tended=False)
    told = worker.end_of_log()
    if "RocksDB refused a write" not in told:
        raise ScenarioFailed(f"the worker does not say that the disk is full:\n{told}")
    worker.calm("file_bytes")
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(1_000)


@scenario("a changelog compacted to gaps")
def changelog_compacted(arena: Arena) -> None:
    """Most records of the changelog are gone, and so are most tombstones: what is left must restore the same."""
    arena.compact_eagerly()
    worker = _at_work(arena)
    arena.fleet.until(lambda: arena.changelog_density() < 0.3, "the changelog is mostly gaps")
    worker.crash()
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(1_000)


@scenario("a changelog emptied, for every window was closed")
def changelog_emptied(arena: Arena) -> None:
    """With everything closed and nothing to amend, compaction leaves the partition records alone."""
    arena.configure(retention_ms=20_000)
    arena.compact_eagerly()
    worker = _at_work(arena)
    arena.stream.paused = True
    verdict = arena.settled()
    if verdict.open or not verdict.verified:
        raise ScenarioFailed(f"not everything closed: {verdict}")
    worker.crash()
    worker.wanted = False
    arena.fleet.until(lambda: arena.changelog_density() < 0.02, "compaction leaves nearly nothing")
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.stream.paused = False
    arena.until_sent(800)
