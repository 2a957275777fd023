"""The one builder of the application, for production and tests alike."""

from __future__ import annotations

import gc
import socket
import ssl
from typing import Any, cast

import faust
from faust.transport.base import Transport
from faust.types.auth import CredentialsT

from agents import feedback as feedback_agent
from agents.feedback import Folder
from agents.window_close import Closer
from feedback_app.cli import register_commands
from feedback_app.closing import CloseRules
from feedback_app.core.clock import Clock, SystemClock
from feedback_app.core.partitioning import partitioner
from feedback_app.core.watermark import Lateness
from feedback_app.errors import SettingsError
from feedback_app.folding import FoldRules
from feedback_app.health import Health
from feedback_app.provisioning import check_database, ensure_topics
from feedback_app.retry import retrying
from feedback_app.settings import BatchingMode, Settings
from feedback_app.sinks import Sink
from feedback_app.sinks.mongodb import MongoSink
from feedback_app.topics import Topics
from feedback_app.transport.batches import BatchTransport
from feedback_app.web.agents import agent_views
from feedback_app.web.health import health_views
from feedback_app.web.token import token_guard
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition
from tables.recovery import SelfRestoringTables

#: Detecting a dead worker takes this long. Kafka's own default is 45 s.
_SESSION_S = 10.0
#: How long members have to give up their partitions; above the deadline for that (``tables.partition``).
_REBALANCE_S = 6.0


class FeedbackWorker(faust.Worker):
    """Faust's worker, which checks what it needs before it starts: a failure is one line, without a stack trace."""

    def execute_from_commandline(self) -> Any:
        cast(FeedbackApp, self.app).preflight()
        super().execute_from_commandline()


class FeedbackApp(faust.App):
    """The Faust application, with the parts that it was built from."""

    settings: Settings
    sink: Sink
    health: Health
    windows: FeedbackWindows

    def _new_transport(self) -> Transport:
        return BatchTransport(self.conf.broker_consumer, self)

    async def on_stop(self) -> None:
        """Give the partitions up, then let go of the database."""
        await super().on_stop()
        await self.sink.close()

    def preflight(self) -> None:
        """Make the data dir and missing topics, check what is there, and reach the database.

        Raises:
            FeedbackError: what is wrong, in one line.
        """
        data_dir = self.settings.data_dir
        try:
            (data_dir / self.settings.app_id).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"FEEDBACK_DATA_DIR={str(data_dir)!r}: can't be made: {error.strerror}") from None
        ensure_topics(self.settings, Topics.of(self.settings).specs())
        if isinstance(self.sink, MongoSink):
            check_database(self.settings)


def create_app(settings: Settings, *, sink: Sink | None = None, clock: Clock | None = None) -> FeedbackApp:
    """Build the application. Nothing is connected to before it is started.

    Args:
        sink: where windows and items go; MongoDB by default.
        clock: the machine's by default.
    """
    clock = clock or SystemClock()
    topics = Topics.of(settings)
    app = FeedbackApp(
        settings.app_id,
        # Faust's own environment variables (BROKER_URL, WEB_PORT, ...) would beat these arguments.
        env={},
        autodiscover=False,
        broker=f"kafka://{settings.bootstrap_servers.replace(',', ';kafka://')}",
        broker_credentials=_credentials(settings),
        broker_session_timeout=_SESSION_S,
        broker_heartbeat_interval=_SESSION_S / 5,
        broker_rebalance_timeout=_REBALANCE_S,
        consumer_auto_offset_reset="earliest",
        datadir=settings.data_dir / settings.app_id,
        store="memory://",
        stream_wait_empty=False,  # nothing is acknowledged, so nothing would ever be empty
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        topic_partitions=topics.partitions,
        topic_replication_factor=settings.replication_factor,
        topic_disable_leader=True,
        # Faust's own pages show tables, streams and routes to whoever asks.
        web_graph_enabled=False,
        web_metrics_enabled=False,
        web_router_enabled=False,
        web_stats_enabled=False,
        web_tables_enabled=False,
        web_bind=settings.web_host,
        web_host=_reachable(settings.web_host),
        web_port=settings.web_port,
        web_application_options={"middlewares": token_guard(settings)},
        TableManager=SelfRestoringTables,
        Worker=FeedbackWorker,
    )
    app.settings = settings
    app.health = Health()
    app.sink = sink or MongoSink(settings, clock=clock)
    app.windows = FeedbackWindows(app, settings, topics, clock)
    app.tables.add(app.windows)
    feedback_agent.register(app, app.windows, topics)
    _register_work(app, settings, topics, clock)
    for path, view in {
        **health_views(app.windows, app.health),
        **agent_views(app, app.windows, topics.partitions),
    }.items():
        app.page(path)(view)
    register_commands(app, settings)
    return app


def _register_work(app: FeedbackApp, settings: Settings, topics: Topics, clock: Clock) -> None:
    """Say what runs on each partition that the worker owns."""
    lateness = Lateness(settings.grace_ms, settings.retention_ms)
    partition_of = partitioner(topics.partitions)
    folder = Folder(app.windows, app.sink, clock, app.health)
    closer = Closer(app.windows, app.sink, clock, app.health, lateness, settings.idle_ms, settings.batch_size)

    def work(owned: OwnedPartition) -> Any:
        fold_rules = FoldRules(
            partition=owned.partition,
            partition_of=partition_of,
            topics=topics,
            window_size=settings.batch_time_ms,
            lateness=lateness,
            max_future_ms=settings.max_future_ms,
            keep_items=settings.store_items,
        )
        close_rules = CloseRules(
            partition=owned.partition,
            aggregates_topic=topics.aggregates,
            joint_events=settings.batching_mode is BatchingMode.GLOBAL,
            split_by_agent=settings.batching_mode is BatchingMode.AGENT,
        )
        return (folder.run(owned, fold_rules), closer.run(owned, close_rules))

    app.windows.work = work

    async def prepare() -> None:
        """Make the indexes, and let the garbage collector leave alone what stays for good."""
        if isinstance(app.sink, MongoSink):
            await retrying(app.sink.prepare)
        # A batch makes tens of thousands of objects that all die with it: looking at them, and at everything that
        # was imported, over and over cost a tenth of the throughput.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

    app.task(prepare)


def _credentials(settings: Settings) -> CredentialsT | None:
    context = _tls(settings) if settings.broker_security.uses_tls else None
    if settings.broker_security.uses_sasl and settings.broker_password is not None:
        return faust.SASLCredentials(
            username=settings.broker_username,
            password=settings.broker_password.get_secret_value(),
            mechanism=settings.broker_sasl_mechanism.value,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.broker_ca_file)
    if settings.broker_cert_file is not None:
        context.load_cert_chain(settings.broker_cert_file, settings.broker_key_file)
    return context


def _reachable(host: str) -> str:
    """Return the name under which other workers reach this one's web views."""
    return socket.gethostname() if host in {"0.0.0.0", "::"} else host
