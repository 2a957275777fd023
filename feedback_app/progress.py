"""What a command shows on stderr while it is busy; stdout stays for its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def sending(total: float | None, verb: str = "sending", what: str = "events") -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield what to call with the number of events sent so far."""
    columns = (
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what + ", {task.fields[rate]:,}/s"),
        TimeElapsedColumn(),
    )
    # What goes to stdout meanwhile must get there, and not to stderr with the bar, unless both are the same terminal.
    same = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=same) as progress:
        task = progress.add_task(verb, total=total, rate=0)

        def report(sent: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(task, completed=sent, rate=round(sent / elapsed) if elapsed else 0)

        yield report


@contextmanager
def waiting(first: str) -> Iterator[Callable[[str], None]]:
    """Show what is being waited for; yield what to call with it. Nothing is left of it afterwards."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(first, total=None)

        def report(what: str) -> None:
            progress.update(task, description=what)

        yield report
