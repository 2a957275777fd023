"""What a comparison has shown: as JSON, as a table and as a chart. Nothing of it is typed by hand."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final
from xml.etree import ElementTree

from benchmarks.contenders import MOST_CPU_OF_TWO, OURS, Bar

_ROOT: Final = Path(__file__).parent.parent
DOCS: Final = _ROOT / "docs"
PAGE: Final = DOCS / "performance.md"
FIGURES: Final = DOCS / "figures"
_TWO: Final = "ours_2"

#: Of what runs in this environment; the other peers' requirements are pinned beside them.
_PACKAGES: Final = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "rocksdict",
    "msgspec",
    "pydantic",
    "orjson",
    "uvloop",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender's, a value a round.

    Attributes:
        rates: events per second.
        cpu_us: CPU microseconds an event, of all its processes.
        peak_mb: the highest resident set, of its largest process.
        windows: what became of the windows that were due; empty where it closes none.
    """

    name: str
    what: str
    rates: Sequence[float]
    cpu_us: Sequence[float]
    peak_mb: Sequence[float]
    windows: str

    @property
    def rate(self) -> float:
        """The median; 0 where every round has failed."""
        return median(self.rates) if self.rates else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one run has shown."""

    events: int
    agents: int
    rounds: int
    figures: Sequence[Figure]
    at: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def ratio(self, other: str) -> float | None:
        """Return how many times as fast as *other* ours is; None where one of the two has no figure."""
        rates = {figure.name: figure.rate for figure in self.figures}
        ours, theirs = rates.get(OURS.name), rates.get(other)
        return round(ours / theirs, 3) if ours and theirs else None

    def cpu_of_two(self) -> float | None:
        """Return the CPU time an event of two workers, by that of one."""
        spent = {figure.name: median(figure.cpu_us) for figure in self.figures if figure.cpu_us}
        one, two = spent.get(OURS.name), spent.get(_TWO)
        return round(two / one, 3) if one and two else None

    def against(self, bars: Sequence[Bar]) -> Iterator[str]:
        """Yield a line for each bar: what was reached of it."""
        for bar in bars:
            ratio = self.ratio(bar.other)
            if ratio is not None:
                reached = "aim" if ratio >= bar.aim else "bar" if ratio >= bar.at_least else "NOT MET"
                yield f"ours to {bar.other:<22}{ratio:>8.2f}   at least {bar.at_least:g}, aim {bar.aim:g}: {reached}"
        if (cpu := self.cpu_of_two()) is not None:
            met = "met" if cpu <= MOST_CPU_OF_TWO else "NOT MET"
            yield f"CPU time of two workers{cpu:>15.2f}   at most {MOST_CPU_OF_TWO:g}: {met}"

    def summary(self) -> dict[str, Any]:
        """Return the last line's content."""
        rates: dict[str, Any] = {figure.name: round(figure.rate) or None for figure in self.figures}
        ratios = {figure.name: self.ratio(figure.name) for figure in self.figures if figure.name != OURS.name}
        return rates | {"ratios": ratios | {"cpu_of_two": self.cpu_of_two()}}


def require_charts() -> None:
    """End the program where no chart can be drawn: called before minutes of measuring, not behind them."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--write draws charts: pip install --constraint constraints.txt --editable '.[bench]'")


def write(comparison: Comparison, page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Put *comparison* into the documentation: its JSON, its chart and its table."""
    figures.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "versions": versions(), **asdict(comparison), "summary": comparison.summary()}
    (figures / "comparison.json").write_text(json.dumps(content, indent=2) + "\n")
    draw(comparison, figures / "comparison.svg")
    replace_block(page, "comparison", "\n".join(_table(comparison)))


def versions() -> dict[str, str]:
    """Return the version of everything that takes part."""
    found = {name: version(name) for name in _PACKAGES}
    for name, distribution in (("quix_streams", "quixstreams"), ("bytewax", "bytewax")):
        pinned = (_ROOT / "benchmarks" / "peers" / name / "requirements.txt").read_text()
        match = re.search(rf"^{distribution}==(\S+)", pinned, re.MULTILINE)
        assert match is not None, f"{distribution} is not pinned"
        found[distribution] = match[1]
    pom = ElementTree.parse(_ROOT / "benchmarks" / "peers" / "kafka_streams" / "pom.xml")
    found["Kafka Streams"] = pom.findtext("properties/kafka.version") or "?"
    compiled = version("feedback_native") if find_spec("feedback_native") else "not installed"
    return {"Python": platform.python_version(), "feedback_native": compiled, **found}


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the medians as bars, with the spread of the rounds, into an SVG file that is the same for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    shown = [figure for figure in comparison.figures if figure.rates][::-1]
    with mpl.rc_context({"svg.hashsalt": "comparison", "svg.fonttype": "none", "font.size": 10}):
        drawing = Drawing(figsize=(8, 0.42 * len(shown) + 1), layout="constrained")
        axes = drawing.subplots()
        rates = [figure.rate for figure in shown]
        spread = [
            [figure.rate - min(figure.rates) for figure in shown],
            [max(figure.rates) - figure.rate for figure in shown],
        ]
        colours = ["#0b6e99" if figure.name.startswith(OURS.name) else "#a8b3bd" for figure in shown]
        bars = axes.barh([figure.name for figure in shown], rates, color=colours, xerr=spread, ecolor="#444444")
        axes.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=6)
        axes.set_xlim(0, 1.18 * max(max(figure.rates) for figure in shown))
        axes.set_xlabel("events per second, median and spread")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        drawing.savefig(path, format="svg", metadata={"Date": None})


def block(name: str) -> tuple[str, str]:
    """Return the two comments that a block of that name stands between."""
    return f"<!-- {name}: made by a command, not by hand -->", f"<!-- end of {name} -->"


def replace_block(page: Path, name: str, content: str) -> None:
    """Put *content* between the two comments on *page* that name the block.

    Raises:
        ValueError: they are not there.
    """
    begin, end = block(name)
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no block {name!r}")
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}")


def machine() -> dict[str, Any]:
    """Return what the figures depend on most."""
    return {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()}


def _table(comparison: Comparison) -> Iterator[str]:
    yield (
        f"`make bench`, {comparison.at}: {comparison.events:,} events, {comparison.agents:,} agents, 8 partitions, ten "
        f"one-minute windows; medians of rounds: {comparison.rounds}; {os.cpu_count()} cores ({platform.machine()}), "
        "the broker beside the contender."
    )
    yield ""
    yield "| contender | events/s | spread | ours is | CPU µs an event | peak MB | windows |"
    yield "|---|---|---|---|---|---|---|"
    for figure in comparison.figures:
        if not figure.rates:
            yield f"| {figure.what} | failed | | | | | {figure.windows} |"
            continue
        ratio = comparison.ratio(figure.name) if figure.name != OURS.name else None
        yield (
            f"| {figure.what} | {figure.rate:,.0f} | {min(figure.rates):,.0f} to {max(figure.rates):,.0f} "
            f"| {f'{ratio:.2f} times' if ratio is not None else ''} | {median(figure.cpu_us):.1f} "
            f"| {median(figure.peak_mb):.0f} | {figure.windows} |"
        )
    yield ""
    if (cpu := comparison.cpu_of_two()) is not None:
        yield f"Two workers spend {cpu:.2f} times the CPU time an event that one spends."
        yield ""
    yield "![events per second](figures/comparison.svg)"
    yield ""
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + "."
