"""Stock Faust: a windowed table and its ``on_window_close``, as Faust's guide has them.

    faust -A benchmarks.stock_faust worker

Reads the same ``FEEDBACK_*`` settings as ours, and publishes the same kind of event for each window that its callback
is told of. It counts at least once: Faust's exactly-once mode would only make it slower.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import faust
from faust.tables.wrappers import WindowWrapper
from faust.types import EventT, StreamT

from benchmarks.output import closed_window
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics

if TYPE_CHECKING:
    app: faust.App


def _event_time(event: EventT[Any] | None) -> float:
    """Return the seconds that the event itself tells."""
    assert event is not None
    seconds: float = cast(Any, event.value)["timestamp"] / 1000
    return seconds


def create_stock_app(settings: Settings) -> faust.App:
    """Build the application. A window is due on the wall clock, the grace after its end."""
    topics = Topics.of(settings)
    built = faust.App(
        settings.app_id,
        broker=settings.broker_url,
        store="rocksdb://?driver=rocksdict",
        datadir=str(settings.data_dir),
        topic_partitions=settings.partitions,
        consumer_auto_offset_reset="earliest",
        # Often enough for the committed offsets to show how far it has counted (the default is 2.8 s).
        broker_commit_interval=1.0,
        table_standby_replicas=0,
        web_enabled=False,
    )
    feedback = built.topic(topics.feedback, key_type=str, value_serializer="json", partitions=settings.partitions)
    aggregates = built.topic(topics.aggregates, key_serializer="raw", value_serializer="raw")
    size = timedelta(milliseconds=settings.batch_time_ms)

    async def on_window_close(key: tuple[str, tuple[float, float]], count: int) -> None:
        agent_id, (start, _end) = key
        value = closed_window(agent_id, round(start * 1000), settings.batch_time_ms, count)
        await aggregates.send(key=agent_id.encode(), value=value)

    counts = built.Table("counts", default=int, partitions=settings.partitions, on_window_close=on_window_close)
    windowed = counts.tumbling(size, expires=timedelta(milliseconds=settings.grace_ms))
    # The interface that it is declared with lacks relative_to; and relative_to_field takes seconds alone.
    by_event_time = cast(WindowWrapper, windowed).relative_to(_event_time)

    @built.agent(feedback)
    async def count(events: StreamT[Any]) -> None:
        async for event in events:
            by_event_time[event["agentId"]] += 1

    return built


def __getattr__(name: str) -> Any:
    """Build ``app`` from the environment when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    built = globals()["app"] = create_stock_app(load_settings())
    return built
