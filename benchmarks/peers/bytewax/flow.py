"""Bytewax: a tumbling window of a dataflow, one worker. ``python benchmarks/peers/bytewax/flow.py [--plain]``.

Counts by event time, with snapshots of its state and of Kafka's offsets in SQLite every 10 s (Bytewax's default), and
ends once every partition is read to its end. Reads the same ``FEEDBACK_*`` environment as ours, but imports nothing of
it: it runs in an environment of its own. It commits no group offsets, so it says ``counting`` on stdout before it
connects to Kafka: that is where its clock starts, and the last due window that is published stops it. (A step of the
flow could say so only when a whole batch of every partition has been fetched, off the clock.)

Bytewax has a watermark for each agent: its newest event - the grace + the wall clock's time since that event came in.
An agent's window closes when the same agent has a later event, when that much time has passed (after the last events
of an input: up to a window and a grace), or when the input ends. Here the input ends, which closes what is still open;
the windows of the ticks, which are not due, are published too.

The wall clock is stopped (``now_getter``). It makes windows close behind a live input that falls silent, but this
flow catches up: there it makes events late that are not. What lies behind an agent's watermark is dropped, even if its
window is open, so 2 s of disorder and 3 s between two batches are enough to lose events of a grace of 5 s. With the
wall clock a busy machine lost events in three of eight runs, with batches of 4,000 and 10,000 records; stopped, never.
A live input would need the wall clock, and a ``to_system_utc`` that wakes the flow not before ``close + grace``: the
default wakes it for each open window that is in the past, again and again.

What was tried, in processor time from the start of its clock, with 10,000 agents and ten events of each in a window
(the last three with 2,000 agents); runs of the same differed by a tenth, more on a busy machine. With ``--plain`` the
first, the third and the fourth are as Bytewax, Python and librdkafka have them:

================================================== ==================================================================
``batch_size`` of 10,000 instead of 1,000          0.55 of the time (once 0.95): an agent's events come together
``batch_size`` of 50,000 instead of 10,000         0.7 to 0.8 of the time, but a round of all partitions then takes
                                                   longer than the 10 s between two snapshots, so it is not kept
thresholds of the garbage collector raised         0.7 to 0.9 of the time
``fetch.queue.backoff.ms`` of 5 instead of 1,000   nothing; 0.75 of the time on the clock
the default ``to_system_utc``                      1.1 of the time, more with more agents; not kept
no recovery                                        nothing beyond the noise; not kept
================================================== ==================================================================
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

BROKERS = os.environ["FEEDBACK_BROKER_URL"].removeprefix("kafka://").split(",")
PREFIX = os.environ.get("FEEDBACK_TOPIC_PREFIX", "")
WINDOW_MS = int(os.environ["FEEDBACK_BATCH_TIME_MS"])
GRACE_MS = int(os.environ["FEEDBACK_GRACE_MS"])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def agents_and_times(batch: Iterable[KafkaSourceMessage]) -> Iterable[tuple[str, datetime]]:
    """Decode a batch in one call."""
    events = [orjson.loads(message.value) for message in batch]
    return [(event["agentId"], datetime.fromtimestamp(event["timestamp"] / 1000, UTC)) for event in events]


def aggregated(closed: tuple[str, tuple[int, int]]) -> KafkaSinkMessage:
    """Return the aggregated event of a closed window."""
    agent_id, (number, count) = closed
    event = {"eventId": f"{agent_id}:{number * WINDOW_MS}:{WINDOW_MS}:0", "agentId": agent_id, "count": count}
    return KafkaSinkMessage(agent_id.encode(), orjson.dumps(event))


def feedback(**reading: Any) -> Dataflow:
    """Return the dataflow; *reading* is for its source."""
    flow = Dataflow("feedback")
    source = KafkaSource(BROKERS, [f"{PREFIX}feedback"], tail=False, **reading)
    clock = EventClock(
        ts_getter=lambda time: time,
        wait_for_system_duration=timedelta(milliseconds=GRACE_MS),
        now_getter=lambda: EPOCH,
        to_system_utc=lambda _: None,
    )
    windower = TumblingWindower(length=timedelta(milliseconds=WINDOW_MS), align_to=EPOCH)
    events = op.flat_map_batch("decode", op.input("feedback", flow, source), agents_and_times)
    counts = fold_window(
        "count",
        events,
        clock,
        windower,
        builder=int,
        folder=lambda count, _: count + 1,
        merger=int.__add__,
        ordered=False,
    )
    closed = op.map("aggregated", counts.down, aggregated)
    op.output("aggregates", closed, KafkaSink(BROKERS, f"{PREFIX}feedback-aggregates"))
    return flow


def main() -> None:
    """Count to the end of the input."""
    state = Path(os.environ["FEEDBACK_DATA_DIR"])
    state.mkdir(parents=True, exist_ok=True)
    if not any(state.iterdir()):
        init_db_dir(state, 1)
    if "--plain" in sys.argv[1:]:
        flow = feedback()
    else:
        gc.set_threshold(100_000, 20, 100)
        flow = feedback(add_config={"fetch.queue.backoff.ms": "5"}, batch_size=10_000)
    sys.stdout.write("counting\n")
    sys.stdout.flush()
    cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(state))


if __name__ == "__main__":
    main()
