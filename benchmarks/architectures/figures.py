"""The seed's monitoring figures of one instance, told on its standard output for whoever measures it.

======================== ==============================================================================
batch flush rate         ``flushes`` a second
average batch size       ``flushed`` / ``batches_flushed``
memory usage             ``batches``, ``items`` in memory; ``peak_batches``, ``peak_items``
MongoDB query rate       ``calls`` (commands sent) and ``operations`` (documents read or written) a second
event publishing rate    ``published`` a second
batch age                ``ages_ms``: median, 99 %, highest; of a batch's oldest event, by its timestamp
======================== ==============================================================================
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

#: What a line of figures begins with.
MARK: Final = "figures "
#: How often they are told.
EVERY_S: Final = 0.2


@dataclass(slots=True)
class Figures:
    """Counts what one instance does.

    Attributes:
        consumed: valid items read from the topic.
        invalid: records that were no events: skipped.
        flushed: items whose documents are written.
        batches_flushed: the batches that these were in.
        flushes: times that batches were written; several may share one.
        batches, items: in memory now; items, until they are written.
        timers: timers that wait now.
        calls: commands sent to the database.
        operations: documents that these have read or written.
        published: aggregated events published.
        expired: batches that shared memory had dropped when they were to be written.
        taken_over: batches that another worker had claimed, and not finished.
        evicted: batches that went out early, since there were too many.
        began, ended: when the first item was read, and the last was written, as ``time.monotonic`` tells it to every
            process of this machine.
    """

    consumed: int = 0
    invalid: int = 0
    flushed: int = 0
    batches_flushed: int = 0
    flushes: int = 0
    batches: int = 0
    items: int = 0
    timers: int = 0
    calls: int = 0
    operations: int = 0
    published: int = 0
    expired: int = 0
    taken_over: int = 0
    evicted: int = 0
    began: float = 0.0
    ended: float = 0.0
    peak_batches: int = 0
    peak_items: int = 0
    peak_timers: int = 0
    ages_ms: list[int] = field(default_factory=list)

    def read(self, items: int) -> None:
        """Count items that were read."""
        self.began = self.began or time.monotonic()
        self.consumed += items

    def holds(self, batches: int, items: int, timers: int) -> None:
        """Say what is in memory, and how many timers wait."""
        self.batches, self.items, self.timers = batches, items, timers
        self.peak_batches = max(self.peak_batches, batches)
        self.peak_items = max(self.peak_items, items)
        self.peak_timers = max(self.peak_timers, timers)

    def wrote(self, batches: int, items: int) -> None:
        """Count what one flush has written."""
        self.flushes += 1
        self.batches_flushed += batches
        self.flushed += items
        self.ended = time.monotonic()

    def aged(self, oldest_ms: int) -> None:
        """Note the age of a batch whose oldest event is of *oldest_ms*, now that it is written."""
        self.ages_ms.append(time.time_ns() // 1_000_000 - oldest_ms)

    def tell(self, *, ages: bool = False) -> None:
        """Write one line of figures; *ages*, at the end only: sorting them takes a while."""
        told = {**asdict(self), "ages_ms": spread(self.ages_ms) if ages else {}}
        print(f"{MARK}{json.dumps(told)}", flush=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 99 % and highest of *values*; nothing of none."""
    if not values:
        return {}
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {"median": at(0.5), "p99": at(0.99), "highest": ordered[-1]}


def last_told(output: str) -> dict[str, Any]:
    """Return the last whole line of figures in an instance's output; empty where there is none yet."""
    begin = output.rfind(f"\n{MARK}", 0, output.rfind("\n"))
    if begin < 0:
        if not output.startswith(MARK) or "\n" not in output:
            return {}
        begin = -1
    told: dict[str, Any] = json.loads(output[begin + 1 + len(MARK) :].partition("\n")[0])
    return told
