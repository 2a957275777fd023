"""What the contenders publish of a closed window, and the check that all of them go through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from benchmarks.workload import Totals
from feedback_app.core.windows import Window


def closed_window(agent_id: str, start: int, size: int, count: int) -> bytes:
    """Return the aggregated event of a window, as far as the check reads it."""
    return orjson.dumps({"eventId": Window(agent_id, start, size).event_id(0), "agentId": agent_id, "count": count})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the windows that were published compare with those that were due.

    Attributes:
        due: windows that had to be published.
        right: windows published once, with the right count.
        wrong: windows published once, with another count.
        missing: windows never published.
        repeated: windows published more than once.
    """

    due: int
    right: int
    wrong: int
    missing: int
    repeated: int

    @property
    def holds(self) -> bool:
        """Each due window was published exactly once, with the right count."""
        return self.right == self.due

    def __str__(self) -> str:
        if self.holds:
            return f"all {self.due} windows, once each, right"
        return (
            f"LOSES WINDOWS: of {self.due} due, {self.right} right, {self.wrong} with a wrong count, "
            f"{self.missing} never closed, {self.repeated} closed more than once"
        )


def check(values: Iterable[bytes], totals: Totals) -> Verdict:
    """Compare the aggregated events *values* with the right *totals*; windows that were not due are left out."""
    published: dict[tuple[str, int], list[int]] = {}
    for value in values:
        event = orjson.loads(value)
        agent_id, start, _size, _revision = event["eventId"].rsplit(":", 3)
        window = (agent_id, int(start))
        if window in totals:
            published.setdefault(window, []).append(event["count"])
    once = {window: counts[0] for window, counts in published.items() if len(counts) == 1}
    right = sum(totals[window] == count for window, count in once.items())
    return Verdict(
        due=len(totals),
        right=right,
        wrong=len(once) - right,
        missing=len(totals) - len(published),
        repeated=len(published) - len(once),
    )
