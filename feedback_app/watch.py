"""A worker that ends when a part of it has died or hangs, and that takes no longer for it than it was given."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol, cast

import faust
from mode import Service

from feedback_app.liveness import Dead, Liveness

logger = logging.getLogger(__name__)

_BEAT_S: Final = 1.0
#: A beat that took longer says that the process was frozen, or had to wait for the processor.
_LONGEST_BEAT_S: Final = 5.0
#: How long an orderly stop may take, and how long threads that wait for the broker may hold it up after that. Together
#: with what a process needs to end they stay below ten seconds.
_STOP_S: Final = 8.0
_LINGER_S: Final = 1.0


class WatchedApp(Protocol):
    """What is asked of the application."""

    liveness: Liveness

    def signs(self) -> Iterable[str]:
        """Return, in words, what has ended or stands still."""
        ...

    async def ping(self) -> None:
        """Return once the consumer's thread has answered."""
        ...

    async def crash(self, reason: BaseException) -> None: ...


class WatchedWorker(faust.Worker):
    """Faust's worker, which looks after itself.

    Every second the event loop renews a dead man's switch: a thread of C, which needs neither the loop nor the
    interpreter's lock. When it is not renewed it writes to stderr where each thread stands, and ends the process with
    exit code 1.
    """

    @Service.task
    async def _watch(self) -> None:
        app, loop = self._watched_app, asyncio.get_running_loop()
        while True:
            _end_within(app.liveness.lethal_s)
            began = loop.time()
            await self.sleep(_BEAT_S)
            app.liveness.advance(min(loop.time() - began, _LONGEST_BEAT_S))
            if self.should_stop:
                return
            app.liveness.note(app.signs())
            if app.liveness.lethal():
                _end_within(_STOP_S)  # also when nobody comes to stop us: a start that hangs, say
                # All that is overdue: what shows first is not always the cause.
                await app.crash(Dead("; ".join(app.liveness.reasons())))

    @Service.task
    async def _ping(self) -> None:
        """Ask the consumer's thread again and again whether it is there."""
        app = self._watched_app
        while not self.should_stop:
            # When the thread has ended its event loop is closed: that is a sign by itself.
            with suppress(RuntimeError), app.liveness.step("the consumer's thread does not answer"):
                await app.ping()
            await self.sleep(_BEAT_S)

    async def stop(self) -> None:
        """Stop in an orderly way, or be ended."""
        _end_within(_STOP_S)
        await super().stop()

    def on_worker_shutdown(self) -> None:
        """Stop listening to those who ask for an end, which has begun.

        Closing the event loop would remove its handlers and leave it to the default to answer a second signal: that
        kills the process, which then seems to have failed.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        super().on_worker_shutdown()

    @property
    def _watched_app(self) -> WatchedApp:
        return cast(WatchedApp, self.app)


def leave(exit_code: int) -> NoReturn:
    """Raise SystemExit after an orderly stop; threads that still wait for the broker hold it up for a moment only."""
    faulthandler.cancel_dump_traceback_later()
    timer = threading.Timer(_LINGER_S, os._exit, (exit_code,))
    timer.daemon = True
    timer.start()
    raise SystemExit(exit_code)


def _end_within(seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=cast(Any, sys.__stderr__))
