"""The Faust application and its worker: what they check before they start, how they stop, and how they fail."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import Any, cast

import faust
from aiohttp.web import AppRunner
from faust.transport.base import Transport
from faust.types.web import Web
from mode import Service

from feedback_app.errors import FeedbackError, SettingsError
from feedback_app.health import Health
from feedback_app.liveness import Liveness
from feedback_app.logs import log_json_from_the_start, show_as_json
from feedback_app.memory import share_arenas
from feedback_app.metrics import Metrics
from feedback_app.provisioning import check_database, ensure_topics
from feedback_app.rates import Rates
from feedback_app.settings import LogFormat, Settings
from feedback_app.sinks import Sink
from feedback_app.sinks.mongodb import MongoSink
from feedback_app.topics import Topics
from feedback_app.tracing import Tracer
from feedback_app.transport.batches import BatchConsumer, BatchTransport
from feedback_app.transport.signs import faust_signs
from feedback_app.watch import WatchedWorker, leave
from feedback_app.web.events import Ingest
from feedback_app.web.letters import LetterDesk
from feedback_app.web.own import Own
from feedback_app.web.stream import Stream
from feedback_app.web.token import open_to_others
from tables.feedback_windows import FeedbackWindows
from tables.partition import data_path

logger = logging.getLogger(__name__)

#: How long clients can hold up the end of the web server, twice: in a page, and in what they still send to it.
_FINISH_S = 0.5

_RESUMING = "resuming"


class FeedbackWorker(WatchedWorker):
    """The worker, which checks what it needs before it starts, and tells our own errors without a stack trace."""

    def __init__(self, app: Any, *services: Any, **options: Any) -> None:
        self._logs_json = app.settings.log_format is LogFormat.JSON
        if self._logs_json:
            log_json_from_the_start()
            options["quiet"] = True
        super().__init__(app, *services, **options)
        if self._logs_json:
            self.spinner = None

    def execute_from_commandline(self) -> Any:
        """Run until stopped. An error that we have words for is the last line on stderr, and decides the exit code."""
        share_arenas()
        try:
            self._check_web_address()
            cast(FeedbackApp, self.app).preflight()
            super().execute_from_commandline()
        except FeedbackError as error:
            failure = error
        except SystemExit as end:
            if not isinstance(self.crash_reason, FeedbackError):
                leave(cast(int, end.code))
            failure = self.crash_reason
        if self._logs_json:
            show_as_json(failure.message)
        else:
            failure.show()
        leave(failure.exit_code)

    def _check_web_address(self) -> None:
        conf = self.app.conf
        if not conf.web_enabled:
            return

        async def listen() -> None:
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, conf.web_bind, conf.web_port)
            server.close()
            await server.wait_closed()

        try:
            self.loop.run_until_complete(listen())
        except OSError as error:
            raise SettingsError(
                f"FEEDBACK_WEB_HOST={conf.web_bind!r}, FEEDBACK_WEB_PORT={conf.web_port}: can't listen there: "
                f"{str(error.strerror).rpartition('): ')[2]}; use another port or host"
            ) from None


class FeedbackApp(faust.App):
    """The Faust application, with the parts that it was built from."""

    settings: Settings
    sink: Sink
    health: Health
    liveness: Liveness
    metrics: Metrics
    tracing: Tracer
    rates: Rates
    windows: FeedbackWindows
    ingest: Ingest
    own: Own
    watching: Stream
    letters: LetterDesk

    def _new_web(self) -> Web:
        web: Any = super()._new_web()
        # Faust has no setting for it, and aiohttp would wait a minute for clients that do not finish a request.
        web._runner = AppRunner(web.web_app, access_log=None, shutdown_timeout=_FINISH_S)
        return cast(Web, web)

    def _new_transport(self) -> Transport:
        return BatchTransport(self.conf.broker_consumer, self)

    async def on_start(self) -> None:
        """Say what is allowed and yet should be known."""
        if warning := open_to_others(self.settings):
            logger.warning("%s", warning)
        await super().on_start()

    async def on_stop(self) -> None:
        """Give the partitions up, and answer the requests that wait for the broker; then let go of the database."""
        self.watching.close()
        self.letters.close()
        closing = asyncio.create_task(self.ingest.close())
        await super().on_stop()
        self.rates.tell()
        await closing
        handing_on = asyncio.create_task(self.tracing.stop())
        await self.sink.close()
        await handing_on

    async def crash(self, reason: BaseException) -> None:
        """End the worker: with a stack trace, unless it is an error of ours, which says by itself what is wrong."""
        if not isinstance(reason, FeedbackError):
            await super().crash(reason)
            return
        worker = cast(Service, (self.beacon.root or self.beacon).data)
        if not worker.crashed:  # what follows from the first error would hide it
            logger.critical("%s", reason.message)
            # No more than it takes to wake the worker up: crashing every service, as mode does, makes the consumer's
            # thread end by itself, and the orderly stop that follows trip over it.
            worker.crash_reason = reason
            worker._crashed.set()

    def signs(self) -> Iterator[str]:
        """Yield, in words, what has ended or stands still, of Faust's parts and of ours."""
        if self._consumer is not None and not self.should_stop:
            yield from faust_signs(self)
            yield from cast(BatchConsumer, self._consumer).signs()
            yield from self.windows.signs()
            yield from self.ingest.signs()

    async def ping(self) -> None:
        """Return once the consumer's thread has answered; at once while there is none yet."""
        if self._consumer is not None:
            await cast(BatchConsumer, self._consumer).ping()

    # Between these two nothing is read, and nobody but Faust itself is waited for.

    def on_rebalance_return(self) -> None:
        super().on_rebalance_return()
        self.liveness.begin(_RESUMING, "Faust does not resume after a rebalance")

    def on_rebalance_end(self) -> None:
        self.liveness.end(_RESUMING)
        super().on_rebalance_end()

    def on_rebalance_start(self) -> None:
        self.liveness.end(_RESUMING)
        super().on_rebalance_start()

    def preflight(self) -> None:
        """Begin to hand traces on, take the data dir, make missing topics, check those that are there, and reach the
        database.

        Raises:
            FeedbackError: what is wrong, in one line.
        """
        self.tracing.start()
        self._take_data_dir()
        ensure_topics(self.settings, Topics.of(self.settings).specs())
        if isinstance(self.sink, MongoSink):
            check_database(self.settings)

    def _take_data_dir(self) -> None:
        """Make the data dir, and lock it for as long as the process lives.

        RocksDB locks single partitions only: two workers in one data dir would get in each other's way at some later
        rebalance.
        """
        shown = f"FEEDBACK_DATA_DIR={str(self.settings.data_dir)!r}"
        tables = data_path(self.settings, 0).parent
        try:
            tables.mkdir(parents=True, exist_ok=True)
            fcntl.flock(os.open(tables / "lock", os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{shown}: another worker is using it; each worker needs one of its own") from None
        except OSError as error:
            raise SettingsError(
                f"{shown}: can't be used: {error.strerror} ({error.filename or tables}); it must be a folder that this "
                "user may write to"
            ) from None
