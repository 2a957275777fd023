"""What workers answer, as tables for people. Cells are plain text: what users wrote can't become markup or escapes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feedback_app.deadletters.letters import printable

#: Where the output is no terminal nothing must be cut off to fit one.
_WIDE: Final = 240


def show_windows(answer: Mapping[str, Any]) -> None:
    """Show an agent's open windows."""
    windows = _list(answer.get("open"))
    if not windows:
        _print(
            Text(
                f"agent {_text(answer.get('agentId'))} has no open window (partition {_text(answer.get('partition'))})"
            )
        )
        return
    columns = [
        "start (UTC)",
        "end",
        "events",
        "positive",
        "negative",
        "neutral",
        "average score",
        "comments",
        "tags",
        "last",
    ]
    rows = [
        [
            _time(window.get("windowStart")),
            _time(window.get("windowEnd")),
            *(_number(window.get(name)) for name in ("count", "positive", "negative", "neutral")),
            _average(window),
            _number(window.get("comments")),
            ", ".join(f"{_text(tag.get('tag'))} {_number(tag.get('count'))}" for tag in _list(window.get("tags"))),
            _time(window.get("lastTimestamp")),
        ]
        for window in windows
    ]
    title = f"agent {_text(answer.get('agentId'))}, partition {_text(answer.get('partition'))}"
    _print(_table(title, columns, rows, numbers=range(2, 8)))


def show_partitions(answer: Mapping[str, Any]) -> None:
    """Show all partitions, then who did not answer; times without fractions."""
    columns = ["partition", "owner", "state", "watermark (UTC)", "windows open until", "silent since", "offsets"]
    rows = []
    for row in _list(answer.get("partitions")):
        offsets = row.get("offsets")
        shown = [f"{_text(topic)} {_number(at)}" for topic, at in offsets.items()] if isinstance(offsets, dict) else []
        texts = [_text(row.get(name)) for name in ("partition", "owner", "state")]
        times = [_time(row.get(name)) for name in ("watermark", "newestOpenEnd", "silentSince")]
        rows.append([*texts, *times, "\n".join(shown)])
    _print(_table("", columns, rows, numbers=[0]))
    unanswered = answer.get("unanswered")
    for url in unanswered if isinstance(unanswered, list) else []:
        _print(Text(f"{_text(url)} did not answer"))


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left")
    right = set(numbers)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print(what: Table | Text) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(what, soft_wrap=isinstance(what, Text))


def _list(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _time(value: object) -> str:
    """Return a time as UTC, to the second."""
    return _text(value)[:19].replace("T", " ")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _average(window: Mapping[str, Any]) -> str:
    total, count = window.get("scoreSum"), window.get("scoreCount")
    return f"{total / count:.2f}" if isinstance(total, int) and isinstance(count, int) and count else "-"
