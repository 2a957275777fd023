"""The one builder of the application, for production and tests alike."""

from __future__ import annotations

import gc
import logging
import socket
import time
from typing import Any

from agents import feedback as feedback_agent
from agents.feedback import Folder
from agents.pace import Pace
from agents.survey import survey
from agents.window_close import Closer
from feedback_app import __version__, compiled
from feedback_app.application import FeedbackApp, FeedbackWorker
from feedback_app.cli import register_commands
from feedback_app.closing import CloseRules
from feedback_app.core.clock import Clock, SystemClock
from feedback_app.core.watermark import Lateness
from feedback_app.credentials import broker_credentials
from feedback_app.discretion import be_discreet
from feedback_app.errors import SettingsError
from feedback_app.figures import CounterReader, Lately
from feedback_app.folding import FoldRules
from feedback_app.health import Health
from feedback_app.liveness import Liveness
from feedback_app.logs import json_logging, leave_out_banner
from feedback_app.metrics import Metrics
from feedback_app.rates import Rates
from feedback_app.retry import retrying
from feedback_app.settings import BatchingMode, LogFormat, Settings
from feedback_app.sinks import Sink
from feedback_app.sinks.mongodb import MongoSink
from feedback_app.topics import Topics
from feedback_app.tracing import NO_TRACER, Tracer
from feedback_app.web.agents import agent_views
from feedback_app.web.answers import plain_answers
from feedback_app.web.cluster import Cluster, cluster_views
from feedback_app.web.events import Ingest, event_views
from feedback_app.web.health import health_views
from feedback_app.web.letters import LetterDesk, letter_views
from feedback_app.web.login import login_views
from feedback_app.web.metrics import metrics_views
from feedback_app.web.openapi.document import api_views
from feedback_app.web.own import Own
from feedback_app.web.pages import page_views, pages_for_browsers
from feedback_app.web.partitions import partition_views
from feedback_app.web.ranking import Ranking, ranking_views
from feedback_app.web.sessions import sessions_of
from feedback_app.web.stream import Stream, stream_views
from feedback_app.web.token import token_guard
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition
from tables.recovery import SelfRestoringTables

logger = logging.getLogger(__name__)

#: Detecting a dead worker takes this long. Kafka's own default is 45 s.
_SESSION_S = 10.0
#: How long members have to give up their partitions; above the deadline for that (``tables.partition``).
_REBALANCE_S = 6.0


def create_app(
    settings: Settings, *, sink: Sink | None = None, clock: Clock | None = None, liveness: Liveness | None = None
) -> FeedbackApp:
    """Build the application. Nothing is connected to before it is started.

    Args:
        sink: where windows and items go; MongoDB by default.
        clock: the machine's by default.
        liveness: when a part of the worker counts as dead; after 20 s by default.
    """
    be_discreet()
    clock = clock or SystemClock()
    topics = Topics.of(settings)
    sessions = sessions_of(settings, clock)
    app = FeedbackApp(
        settings.app_id,
        # Faust's own environment variables (BROKER_URL, WEB_PORT, ...) would beat these arguments.
        env={},
        autodiscover=False,
        broker=f"kafka://{settings.bootstrap_servers.replace(',', ';kafka://')}",
        broker_credentials=broker_credentials(settings),
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
        # Faust's own pages show how the application is built.
        web_graph_enabled=settings.web_faust_pages,
        web_metrics_enabled=settings.web_faust_pages,
        web_router_enabled=settings.web_faust_pages,
        web_stats_enabled=settings.web_faust_pages,
        web_tables_enabled=settings.web_faust_pages,
        web_bind=settings.web_host,
        web_host=_reachable(settings.web_host),
        web_port=settings.web_port,
        web_application_options={
            "middlewares": [plain_answers, *token_guard(sessions), pages_for_browsers(login=sessions is not None)]
        },
        logging_config=json_logging() if settings.log_format is LogFormat.JSON else None,
        TableManager=SelfRestoringTables,
        Worker=FeedbackWorker,
    )
    app.settings = settings
    app.health = Health()
    app.liveness = liveness or Liveness()
    app.metrics = Metrics()
    app.tracing = _tracer(settings)
    app.sink = sink or MongoSink(settings, clock=clock, meter=app.metrics)
    app.windows = FeedbackWindows(app, settings, topics, clock, app.liveness, app.metrics, app.tracing)
    app.metrics.watch(
        app.windows,
        app.health,
        app.liveness,
        clock,
        partitions=settings.partitions,
        mode=settings.batching_mode.value,
        version=__version__,
    )
    app.rates = Rates(app.metrics.registry)
    app.tables.add(app.windows)
    app.ingest = Ingest(settings, app.liveness)
    lately = Lately(CounterReader(app.metrics.registry), time.monotonic)
    app.own = Own(app.windows, app.health, app.liveness, lately, clock, __version__)
    cluster = Cluster(app, app.windows, settings, topics, app.own, clock)
    app.watching = Stream(cluster)
    app.letters = LetterDesk(settings)
    archive = app.sink.archive() if isinstance(app.sink, MongoSink) else None
    feedback_agent.register(app, app.windows, topics)
    _register_work(app, settings, topics, clock)
    for path, view in {
        **health_views(app.windows, app.health, app.liveness),
        **metrics_views(app.metrics),
        **page_views(login=sessions is not None),
        **agent_views(app, app.windows, topics.partitions, archive),
        **event_views(app.ingest),
        **login_views(sessions),
        **api_views(secured=sessions is not None),
        **partition_views(app, app.windows, topics.partitions, topics.sources),
        **cluster_views(cluster),
        **ranking_views(Ranking(cluster, archive, settings.batch_time_ms)),
        **letter_views(app.letters),
        **stream_views(app.watching),
    }.items():
        app.page(path)(view)
    register_commands(app, settings)
    if settings.log_format is LogFormat.JSON:
        leave_out_banner()
    return app


def _register_work(app: FeedbackApp, settings: Settings, topics: Topics, clock: Clock) -> None:
    """Say what runs on each partition that the worker owns."""
    lateness = Lateness(settings.grace_ms, settings.retention_ms)
    partition_of = compiled.partitioner(topics.partitions)
    pace = Pace()
    folder = Folder(app.windows, app.sink, clock, app.health, pace, app.metrics, app.tracing)
    closer = Closer(
        app.windows,
        app.sink,
        clock,
        app.health,
        lateness,
        settings.idle_ms,
        pace,
        app.metrics,
        app.tracing,
    )

    def work(owned: OwnedPartition) -> Any:
        fold_rules = FoldRules(
            partition=owned.partition,
            partition_of=partition_of,
            topics=topics,
            window_size=settings.batch_time_ms,
            lateness=lateness,
            max_future_ms=settings.max_future_ms,
            keep_items=settings.store_items,
            topic_ids=owned.identities.sources,
            counts=compiled.counts(),
            partitions=topics.partitions,
        )
        close_rules = CloseRules(
            partition=owned.partition,
            aggregates_topic=topics.aggregates,
            batch_size=settings.batch_size,
            joint_events=settings.batching_mode is BatchingMode.GLOBAL,
            split_by_agent=settings.batching_mode is BatchingMode.AGENT,
            describe=compiled.describe(),
        )
        return (folder.run(owned, fold_rules), closer.run(owned, close_rules), survey(owned))

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

    async def tell_rates() -> None:
        """Say now and then what was done."""
        await app.rates.run()

    app.task(tell_rates)

    async def remember() -> None:
        """Keep the history of the last hour."""
        await app.own.remember()

    app.task(remember)


def _tracer(settings: Settings) -> Tracer:
    if not settings.tracing:
        return NO_TRACER
    try:
        from feedback_app.telemetry import open_tracer
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"FEEDBACK_TRACING=true: {error.name} is not installed; pip install 'feedback-app[tracing]'"
        ) from None
    return open_tracer(f"{_reachable(settings.web_host)}:{settings.web_port}")


def _reachable(host: str) -> str:
    """Return the name under which other workers reach this one's web views."""
    return socket.gethostname() if host in {"0.0.0.0", "::"} else host
