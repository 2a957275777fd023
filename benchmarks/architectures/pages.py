"""What a run has shown, in docs/migration.md: the seed's estimates beside it, tables, and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.architectures.contenders import OURS, REDIS, V1, V2
from benchmarks.architectures.judging import Loss
from benchmarks.architectures.live import Live
from benchmarks.architectures.memory import Held
from benchmarks.architectures.results import kill_bars, plainly, rate_bars
from benchmarks.architectures.sustained import Sustained
from benchmarks.report import DOCS, machine, replace_block
from benchmarks.scale.results import Part

_OURS: Final = "#0b6e99"
_OTHERS: Final = "#a8b3bd"
_PACKAGES: Final = ("aiokafka", "pymongo", "redis", "faust-streaming", "SecantusDB")


#: The parts, and what they are called on the page.
TITLES: Final = {
    "sustained": "A backlog, worked off",
    "memory": "10,000 agents' batches",
    "live": "Events at a rate",
    "kill": "SIGKILL of an instance in the middle, and a restart",
}


class Estimate(NamedTuple):
    """What the seed says of one architecture."""

    name: str
    title: str
    users: str
    throughput: str
    bottleneck: str


ESTIMATES: Final = (
    Estimate(V1.name, "v1", "10K-50K", "1K-5K", "MongoDB queries"),
    Estimate(V2.name, "v2", "100K-500K", "10K-50K", "single instance CPU/memory"),
    Estimate(REDIS.name, "Redis", "millions", "100K+", "Redis/MongoDB capacity"),
    Estimate(OURS.name, "Kafka-native", "millions+", "500K+", "infrastructure capacity"),
)


def write(measured: Sequence[Part], docs: Path = DOCS) -> None:
    """Put what was measured into docs/migration.md, and its figures beside it.

    Parts that were not measured now stay as they are: what is compared is always of one part, and so of one run.

    Raises:
        ValueError: some part has never been measured.
    """
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    data = figures / "architectures.json"
    earlier = json.loads(data.read_text())["parts"] if data.exists() else {}
    at = datetime.now(UTC).date().isoformat()
    kept = earlier | {part.name: {"at": at, **part.content()} for part in measured}
    if missing := [name for name in TITLES if name not in kept]:
        raise ValueError(f"{', '.join(missing)}: never measured")
    versions = {name: version(name) for name in _PACKAGES}
    content = {"machine": machine(), "versions": versions, "parts": {name: kept[name] for name in TITLES}}
    data.write_text(json.dumps(content, indent=2) + "\n")
    parts = {name: part_of(name, kept[name]) for name in TITLES}
    draw(parts, figures / "architectures.svg")
    page = docs / "migration.md"
    replace_block(page, "estimates", "\n".join(estimates(parts)))
    replace_block(page, "measured", "\n".join(tables(parts, content)))


def part_of(name: str, content: Mapping[str, Any]) -> Part:
    """Return a part as it was measured; the inverse of its ``content``."""
    rows = content["rows"]
    if name == "sustained":
        backlogs = [Sustained(**row) for row in rows]
        return Part(name, content["what"], backlogs, list(rate_bars(backlogs)))
    if name == "memory":
        return Part(name, content["what"], [Held(**row) for row in rows])
    lives = [Live(**{**row, "loss": Loss(**row["loss"]) if row["loss"] else None}) for row in rows]
    return Part(name, content["what"], lives, list(kill_bars(lives)) if name == "kill" else [])


def estimates(parts: Mapping[str, Part]) -> Iterator[str]:
    """Yield the seed's table, with what was measured beside each estimate."""
    backlogs = [row for row in parts["sustained"].rows if isinstance(row, Sustained)]
    held = {row.name: row for row in parts["memory"].rows if isinstance(row, Held)}
    killed = {row.name: row for row in parts["kill"].rows if isinstance(row, Live)}
    yield (
        "| stage | users, seed | events/s, seed | events/s, measured, by agents | memory of 10,000 agents' batches; "
        "seed: 100 MB+ | bottleneck, seed | database calls an event, measured | after SIGKILL, measured |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for estimate in ESTIMATES:
        own = [row for row in backlogs if row.name == estimate.name]
        rates = "; ".join(f"{row.agents:,}: {'failed' if row.failure else f'{row.rate:,.0f}'}" for row in own)
        calls = [row.calls_an_event for row in own if not row.failure]
        memory = held[estimate.name].cells()["MB more"] + " MB" if estimate.name in held else ""
        kill = killed.get(estimate.name)
        yield (
            f"| {estimate.title} | {estimate.users} | {estimate.throughput} | {rates} | {memory} "
            f"| {estimate.bottleneck} | {f'{min(calls):.4f} to {max(calls):.4f}' if calls else ''} "
            f"| {(kill.failure or kill.loss) if kill else ''} |"
        )


def draw(parts: Mapping[str, Part], path: Path) -> None:
    """Draw rates, delays and losses as small bar charts, into an SVG file that is the same for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    backlogs = [row for row in parts["sustained"].rows if isinstance(row, Sustained) and row.rate]
    killed = [row for row in parts["kill"].rows if isinstance(row, Live) and row.loss is not None]
    charts: list[tuple[str, list[tuple[str, float]], str]] = [
        (f"events/s, {agents:,} agents", [(row.name, row.rate) for row in backlogs if row.agents == agents], "{:,.0f}")
        for agents in sorted({row.agents for row in backlogs})
    ]
    losses = [(f"{row.name} {what}", count) for row in killed if row.loss for what, count in row.loss.shares()]
    charts.append(("after SIGKILL, % of the events", losses, "{:.1f}"))
    with mpl.rc_context({"svg.hashsalt": "architectures", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(
            figsize=(9, 0.24 * sum(len(bars) for _, bars, _ in charts) + 0.6 * len(charts)), layout="constrained"
        )
        rows = drawing.subplots(len(charts), height_ratios=[len(bars) + 1 for _, bars, _ in charts])
        for axes, (title, bars, form) in zip(rows, charts, strict=True):
            names, values = [name for name, _ in bars][::-1], [value for _, value in bars][::-1]
            colours = [_OURS if name.startswith(OURS.name) else _OTHERS for name in names]
            axes.bar_label(axes.barh(names, values, color=colours), labels=[form.format(v) for v in values], padding=4)
            axes.set_xlim(0, 1.15 * max([*values, 1]))
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xticks([])
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        drawing.savefig(path, format="svg", metadata={"Date": None})


def tables(parts: Mapping[str, Part], content: Mapping[str, Any]) -> Iterator[str]:
    """Yield everything that was measured."""
    place = content["machine"]
    dates = " and ".join(sorted({part["at"] for part in content["parts"].values()}))
    yield (
        f"`make bench-architectures`, {dates}: {place['cores']} cores ({place['architecture']}), with the "
        "broker, the database and Redis beside what is measured."
    )
    yield ""
    yield "![the four architectures](figures/architectures.svg)"
    for name, title in TITLES.items():
        yield ""
        yield f"### {title}"
        yield ""
        yield from parts[name].markdown()
        if name == "kill":
            for line in plainly([row for row in parts["kill"].rows if isinstance(row, Live)]):
                yield f"- {line}"
    yield ""
    yield "Versions: " + ", ".join(f"{package} {number}" for package, number in content["versions"].items()) + "."
