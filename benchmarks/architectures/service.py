"""What the three batching services share as processes: their settings, their end, and telling their figures."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.architectures.figures import EVERY_S, Figures
from feedback_app.settings import Settings, load_settings

#: A service's work: until the event is set, and then until nothing that it has in its hands is left.
Work = Callable[[Settings, Figures, asyncio.Event], Awaitable[None]]


def run(work: Work) -> None:
    """Run *work* until SIGTERM or SIGINT, on the event loop that this application's workers use."""
    uvloop.run(_run(work))


async def _run(work: Work) -> None:
    stopping, figures = asyncio.Event(), Figures()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    telling = asyncio.create_task(_tell(figures))
    try:
        await work(load_settings(), figures, stopping)
    finally:
        telling.cancel()
        figures.tell(ages=True)
    sys.stdout.flush()


async def _tell(figures: Figures) -> None:
    while True:
        figures.tell()
        await asyncio.sleep(EVERY_S)
