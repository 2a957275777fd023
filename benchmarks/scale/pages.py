"""What a run has shown, in the documentation: as JSON, as tables, as small charts, and as a plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.report import DOCS, block, machine, replace_block, versions
from benchmarks.scale import planning
from benchmarks.scale.results import Part

_INK: Final = "#0b6e99"
_COLUMNS: Final = 3


class Chart(NamedTuple):
    """A small chart: a bar for each row of a part."""

    part: str
    title: str
    values: Sequence[tuple[str, float]]


def write(measured: Sequence[Part], result: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Put a whole run into docs/performance.md and docs/scaling.md, and its figures beside them."""
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "versions": versions(), **_dated(result)}
    _write_figures(content, docs)
    replace_block(docs / "performance.md", "scale", "\n".join(_page(measured, content)))


def write_parts(measured: Sequence[Part], result: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Put parts that were run by themselves in the place of what the whole run had of them.

    Raises:
        ValueError: as :func:`whole_run`.
    """
    content = whole_run(docs, quick=result["quick"])
    for name, figures in _dated(result).items():
        content[name] = content[name] | figures if isinstance(figures, Mapping) else figures
    _write_figures(content, docs)
    for part in measured:
        replace_block(docs / "performance.md", _name(part), "\n".join(_table(part, content)))


def whole_run(docs: Path = DOCS, *, quick: bool) -> dict[str, Any]:
    """Return the figures of the last whole run, for parts that are to go with them.

    Raises:
        ValueError: it was another machine's, or of other versions, or a small one where this is none.
    """
    content: dict[str, Any] = json.loads((docs / "figures" / "scale.json").read_text())
    same = {"machine": machine(), "versions": versions(), "quick": quick}
    if other := [name for name, value in same.items() if content[name] != value]:
        raise ValueError(f"the whole run had another {', '.join(other)}: run it again")
    return content


def _dated(result: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.now(UTC).date().isoformat()
    return {**result, "parts": {name: {"at": at, **part} for name, part in result["parts"].items()}}


def _write_figures(content: Mapping[str, Any], docs: Path) -> None:
    (docs / "figures" / "scale.json").write_text(json.dumps(content, indent=2) + "\n")
    draw(charts(content["parts"]), docs / "figures" / "scale.svg")
    write_plan(docs)


def write_plan(docs: Path = DOCS) -> None:
    """Work out docs/scaling.md's table from scale.json, and from comparison.json where that is there."""
    parts = json.loads((docs / "figures" / "scale.json").read_text())["parts"]
    compared = docs / "figures" / "comparison.json"
    comparison = json.loads(compared.read_text()) if compared.exists() else None
    replace_block(docs / "scaling.md", "plan", "\n".join(planning.lines(planning.Measured.of(parts, comparison))))


def charts(parts: Mapping[str, Any]) -> list[Chart]:
    """Return what is drawn of the *parts* of a result."""

    def rows(part: str, figure: str) -> list[tuple[str, float]]:
        return [(row["name"], float(row[figure])) for row in parts[part]["rows"]]

    def delays(figure: str) -> list[tuple[str, float]]:
        spreads = [(row["name"], row[figure]) for row in parts["delay"]["rows"] if row.get(figure, {}).get("samples")]
        return [(f"{name} {what}", spread[f"{what}_ms"]) for name, spread in spreads for what in ("median", "p99")]

    def rates(part: str) -> list[tuple[str, float]]:
        return [
            (row["name"], row["records"] / row["seconds"] if row["seconds"] else 0.0) for row in parts[part]["rows"]
        ]

    answers = [(row["name"], row["delay"]["p99_ms"]) for row in parts["probes"]["rows"]]
    return [
        Chart("agents", "CPU µs/event, by agents", rows("agents", "cpu_us")),
        Chart("skew", "CPU µs/event, by agents, some more likely", rows("skew", "cpu_us")),
        Chart("backlog", "peak MB, by backlog", rows("backlog", "peak_mb")),
        Chart("window", "peak MB, by window", rows("window", "peak_mb")),
        Chart("partitions", "CPU µs/event, by partitions", rows("partitions", "cpu_us")),
        Chart("events", "CPU µs/event, by content", rows("events", "cpu_us")),
        Chart("workers", "CPU µs/event, by workers", rows("workers", "cpu_us")),
        Chart("items", "items/s", rates("items")[1:]),
        Chart("restore", "restored records/s", rates("restore")),
        Chart("delay", "event to counted, ms", delays("counted")),
        Chart("delay", "window end to document, ms", delays("document")),
        Chart("delay", "window end to event, ms", delays("event")),
        Chart("probes", "answers, 99 % within ms", answers),
    ]


def draw(drawn: Sequence[Chart], path: Path) -> None:
    """Draw small bar charts, side by side, into an SVG file that is the same for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    lines = -(-len(drawn) // _COLUMNS)
    with mpl.rc_context({"svg.hashsalt": "scale", "svg.fonttype": "none", "font.size": 8}):
        drawing = Drawing(figsize=(10, 1.7 * lines), layout="constrained")
        cells = drawing.subplots(lines, _COLUMNS, squeeze=False).flatten()
        for axes, chart in zip(cells, drawn, strict=False):
            names = [name if len(name) <= 26 else f"{name[:25]}…" for name, _ in chart.values]
            heights = range(len(names))[::-1]
            values = [value for _, value in chart.values]
            bars = axes.barh(heights, values, color=_INK)
            axes.bar_label(bars, labels=[f"{value:,.4g}" if value < 1_000 else f"{value:,.0f}" for value in values])
            axes.set_yticks(heights, names)
            axes.set_xlim(0, 1.35 * max([*values, 1e-9]))
            axes.set_title(chart.title, fontsize=8, loc="left")
            axes.xaxis.set_visible(False)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        for axes in cells[len(drawn) :]:
            axes.set_visible(False)
        drawing.savefig(path, format="svg", metadata={"Date": None})


def _page(measured: Sequence[Part], content: Mapping[str, Any]) -> Iterator[str]:
    where = content["machine"]
    how = "`make bench-scale ARGS=--quick`" if content["quick"] else "`make bench-scale`"
    yield f"{how}; {where['cores']} cores ({where['architecture']}), the broker beside the worker."
    yield ""
    yield "![each part as a small chart](figures/scale.svg)"
    yield ""
    for part in measured:
        begin, end = block(_name(part))
        yield from (begin, *_table(part, content), end, "")


def _name(part: Part) -> str:
    return f"scale/{part.name}"


def _table(part: Part, content: Mapping[str, Any]) -> Iterator[str]:
    yield from part.markdown()
    yield f"Measured on {content['parts'][part.name]['at']}."
