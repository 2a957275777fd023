"""What a run has shown: the rows of each part, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.architectures.contenders import OURS, REDIS, REDIS_2, V1, V2
from benchmarks.architectures.live import Live
from benchmarks.architectures.sustained import Sustained
from benchmarks.scale.results import Bar, ratio

#: The seed's claim.
FEWER_CALLS: Final = 10.0


def rate_bars(rows: Sequence[Sustained]) -> Iterator[Bar]:
    """Yield by how much ours is ahead, for each number of agents and each of the three, all on one instance; and what
    v2 saves."""
    found = {(row.name, row.agents): row for row in rows if not row.failure}
    for agents in sorted({row.agents for row in rows}):
        ours = found.get((OURS.name, agents))
        for other in (V1, V2, REDIS, REDIS_2):
            theirs = found.get((other.name, agents))
            if (other.name, agents) in {(row.name, row.agents) for row in rows}:
                value = ratio(ours.rate, theirs.rate) if ours and theirs else None
                what = f"events/s with {agents:,} agents, ours to {other.name}"
                yield Bar(f"rate_{other.name}_{agents}", what, value, 1, at_most=False)
        v1, v2 = found.get((V1.name, agents)), found.get((V2.name, agents))
        fewer = ratio(v1.calls_an_event, v2.calls_an_event) if v1 and v2 else None
        what = f"database calls an event with {agents:,} agents, v1 to v2"
        yield Bar(f"calls_{agents}", what, fewer, FEWER_CALLS, at_most=False)
        fewer = ratio(v1.operations_an_event, v2.operations_an_event) if v1 and v2 else None
        what = f"documents read or written an event with {agents:,} agents, v1 to v2"
        yield Bar(f"operations_{agents}", what, fewer, FEWER_CALLS, at_most=False)


def kill_bars(rows: Sequence[Live]) -> Iterator[Bar]:
    """Yield what ours has lost or counted twice; the others' are shown, and no failure of the benchmark."""
    for row in rows:
        if row.name.startswith(OURS.name):
            value = None if row.loss is None else float(row.loss.lost + row.loss.doubled + (not row.loss.verified))
            yield Bar(f"kill_{row.name}", f"{row.name}: events lost or counted twice after SIGKILL", value, 0)


def plainly(rows: Sequence[Live]) -> Iterator[str]:
    """Yield in words what each has lost."""
    for row in rows:
        yield f"{row.name}: {row.failure or row.loss}"
    unharmed = [row.name for row in rows if row.loss is not None and row.loss.none]
    others = [name for name in unharmed if not name.startswith(OURS.name)]
    if others:
        yield (
            f"In this run {' and '.join(others)} came through unharmed too: the kill met none of the moments in which "
            "it would have counted."
        )
    elif any(name.startswith(OURS.name) for name in unharmed):
        yield "Only this application lost nothing and counted nothing twice."
