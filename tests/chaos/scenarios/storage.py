"""Data dirs that are lost, reused, old or full, and changelogs that were compacted."""

from __future__ import annotations

import shutil
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.fleet import ScenarioFailed
from tests.chaos.registry import scenario
from tests.chaos.stream import Mix

#: How long windows can be amended where a scenario waits for the end of that.
_SHORT_MS: Final = 3_000


@scenario("data dir wiped", quick=True)
def data_dir_wiped(arena: Arena) -> None:
    worker = arena.at_work(800)
    worker.crash()
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(800)


@scenario("data dir of a killed worker reused")
def data_dir_reused(arena: Arena) -> None:
    """Another worker starts on what a killed one has left, after a third has worked on."""
    killed = arena.at_work(800)
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
    worker = arena.at_work(800)
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
    worker = arena.at_work(800)
    arena.fleet.until(lambda: arena.changelog_density() < 0.3, "the changelog is mostly gaps")
    worker.crash()
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.until_sent(1_000)


@scenario("a changelog emptied, for every window was closed")
def changelog_emptied(arena: Arena) -> None:
    """With everything closed and nothing left to amend, compaction leaves the partition records alone."""
    arena.configure(retention_ms=_SHORT_MS)
    arena.compact_eagerly()
    worker = arena.at_work(800, mix=Mix(misplaced=0, amending=0))
    arena.stream.paused = True
    arena.all_closed()
    arena.fleet.rest((worker.settings.batch_time_ms + worker.settings.grace_ms + _SHORT_MS) / 1000)
    arena.stream.move_on()  # the floors pass everything that was closed before
    arena.all_closed()

    def emptied() -> bool:
        arena.stream.knock()  # only a write ends a segment, and only what has ended is compacted
        arena.fleet.rest(1)
        return arena.changelog_windows() <= worker.settings.partitions

    arena.fleet.until(emptied, "no window but the newest stands in the changelog")
    worker.crash()
    worker.wipe()
    worker.begin()
    arena.fleet.until_ready(worker)
    arena.stream.paused = False
    arena.until_sent(800)
