"""Moving from v2 or Redis to this application: ``python -m benchmarks.architectures.cut_over --help``.

Nothing in flight is handed over. Every window gets one author: the old service writes those that begin before a time
*T*, this application those from T on, into a database of its own; and T is such that all events of its windows are
still on the input topic, so that it counts them itself. docs/migration.md has the steps. Here is what they need:

========== =============================================================================================================
boundary   works out T
written    says whether the old service has committed all events from before a time
drained    says whether it has written the batches that were begun in Redis before a time
adopt      copies the old service's documents of windows before T into this application's database
========== =============================================================================================================

The settings (``FEEDBACK_*``) are those of this application.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from pymongo import ReplaceOne
from redis import Redis

from benchmarks.architectures.shared import CLAIMS, DUE
from feedback_app.connections import answered, librdkafka_config
from feedback_app.core.documents import date
from feedback_app.core.state import BEGINNING, PARTITION_RECORD_KEY, PartitionRecord
from feedback_app.errors import FeedbackError
from feedback_app.provisioning import WINDOWS_COLLECTION, open_database
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader

_ANSWER_S: Final = 10.0
_DOCUMENTS_AT_ONCE: Final = 1_000


class NotYet(FeedbackError):
    """It is too early for this step of a cut-over."""


def boundary(settings: Settings, ahead_ms: int | None = None) -> int:
    """Return T, in ms: the beginning of the first window of which every event is still on the topic.

    What has been deleted from a partition had come before its first record that is left. So an event that is gone is
    of a time before the broker's time of that record, plus *ahead_ms*. Where nothing has been deleted yet, T is 0: all
    windows are counted anew.

    Args:
        ahead_ms: by how much an event's time may be ahead of the broker's; by default what this application takes at
            most (``FEEDBACK_MAX_FUTURE_MS``). On a topic with the producers' times, also by how much these may differ
            from each other.

    Raises:
        KafkaException: the broker does not answer.
    """
    ahead_ms = settings.max_future_ms if ahead_ms is None else ahead_ms
    topic = Topics.of(settings).feedback
    consumer = _consumer(settings, settings.app_id)
    gone_before = BEGINNING
    try:
        for partition in range(settings.partitions):
            low, high = answered(consumer.get_watermark_offsets)(TopicPartition(topic, partition), timeout=_ANSWER_S)
            if low > 0:
                gone_before = max(gone_before, _time_of(consumer, topic, partition, low) if high > low else _now_ms())
    finally:
        consumer.close()
    if gone_before == BEGINNING:
        return 0
    size = settings.batch_time_ms
    return -(-(gone_before + ahead_ms) // size) * size


def written(settings: Settings, group: str, before: int, late_ms: int) -> bool:
    """Say whether the old service's consumer group has committed all that may belong to a time before *before*.

    With v2 as it is here, which commits nothing that is still in a batch, that means written. With Redis it means that
    it is in Redis: :func:`drained` says the rest. Of a service that commits by the clock (v1) it says nothing: wait for
    some batch times more, and see that its flushes have not failed.

    Args:
        group: of the old service.
        late_ms: how long after its time an event may come.

    Raises:
        KafkaException: the broker does not answer.
    """
    topic = Topics.of(settings).feedback
    consumer = _consumer(settings, group)
    try:
        at = [TopicPartition(topic, partition, before + late_ms) for partition in range(settings.partitions)]
        first_after = answered(consumer.offsets_for_times)(at, timeout=_ANSWER_S)
        committed = answered(consumer.committed)(at, timeout=_ANSWER_S)
        for there, done in zip(first_after, committed, strict=True):
            target = there.offset
            if target < 0:  # nothing has come since
                low, high = answered(consumer.get_watermark_offsets)(there, timeout=_ANSWER_S)
                if _now_ms() < before + late_ms:
                    return False  # it still may
                target = high if high > low else 0
            if done.offset < target:
                return False
    finally:
        consumer.close()
    return True


def drained(redis_url: str, begun_before: int, batch_ms: int) -> bool:
    """Say whether every batch that was begun in Redis before *begun_before* is written.

    Such a batch becomes due within *batch_ms*. If what is due next becomes so later, and no worker has a claim, there
    is none left. With workers at work that is so again and again; repeat.
    """
    with Redis.from_url(redis_url) as redis, redis.pipeline(transaction=True) as pipeline:
        pipeline.zcount(DUE, "-inf", begun_before + batch_ms)
        pipeline.zcard(CLAIMS)
        left, claimed = pipeline.execute()
        return not (left or claimed)


def final_until(settings: Settings) -> int:
    """Return up to which end, in ms, this application will not change or begin a window any more.

    Raises:
        BrokerError: the broker does not answer.
    """
    floors: dict[int, int] = {}
    topics = Topics.of(settings)
    with TopicReader(settings) as reader:
        for partition, messages in reader.read(topics.changelog, {}, {}):
            for message in messages:
                if message.key() == PARTITION_RECORD_KEY and (value := message.value()) is not None:
                    floors[partition] = PartitionRecord.decode(value).floor
    return min(floors.values(), default=BEGINNING)


def adopt(settings: Settings, old_database: str, before: int) -> int:
    """Copy the documents of windows that begin before *before* from *old_database*; return how many.

    This application has counted what was left of these windows' events, if anything: its documents are replaced.
    Repeating it changes nothing.

    Raises:
        NotYet: a late event could still change such a window here; its document would then be behind what is there.
        FeedbackError: the broker or the database does not answer.
    """
    final = final_until(settings)
    if before and final < before:
        raise NotYet(
            f"windows that end by {before} can still change here, those to {final} can't: wait until events come that "
            f"are FEEDBACK_GRACE_MS + FEEDBACK_RETENTION_MS later than {before}"
        )
    copied = 0
    old = settings.model_copy(update={"mongodb_database": old_database})
    with open_database(old) as source, open_database(settings) as target:
        found = source[WINDOWS_COLLECTION].find({"windowStart": {"$lt": date(before)}}, batch_size=_DOCUMENTS_AT_ONCE)
        while batch := list(islice(found, _DOCUMENTS_AT_ONCE)):
            replaced = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in batch]
            target[WINDOWS_COLLECTION].bulk_write(replaced, ordered=False)
            copied += len(batch)
    return copied


def _consumer(settings: Settings, group: str) -> Consumer:
    """Return a consumer that asks for *group*'s offsets and does not join it."""
    return Consumer(librdkafka_config(settings, group_id=group, enable_auto_commit=False))


def _time_of(consumer: Consumer, topic: str, partition: int, offset: int) -> int:
    consumer.assign([TopicPartition(topic, partition, offset)])
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            consumer.unassign()
            return message.timestamp()[1]
    raise NotYet(f"{topic}/{partition}: the record at {offset} could not be read")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of the steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures.cut_over", description="A cut-over.")
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("boundary", help="print T, in ms since the epoch")
    first.add_argument("--ahead-ms", type=int, help="by how much an event's time may be ahead of the broker's")
    second = steps.add_parser("written", help="exit with 0 once the old service has committed all from before T")
    second.add_argument("--group", required=True, help="its consumer group")
    second.add_argument("--before", type=int, required=True, metavar="T")
    second.add_argument("--late-ms", type=int, default=60_000, help="how late events come (%(default)s)")
    redis = steps.add_parser("drained", help="exit with 0 once the batches begun in Redis before a time are written")
    redis.add_argument("--redis", required=True, metavar="URL")
    redis.add_argument("--begun-before", type=int, required=True, metavar="MS", help="when `written` was so")
    third = steps.add_parser("adopt", help="copy the old documents of windows before T")
    third.add_argument("--from", dest="old", required=True, metavar="DATABASE")
    third.add_argument("--before", type=int, required=True, metavar="T")
    chosen = parser.parse_args(arguments)
    settings = load_settings()
    try:
        if chosen.step == "boundary":
            print(boundary(settings, chosen.ahead_ms))
        elif chosen.step == "adopt":
            print(adopt(settings, chosen.old, chosen.before))
        elif chosen.step == "drained":
            return 0 if drained(chosen.redis, chosen.begun_before, settings.batch_time_ms) else 1
        elif not written(settings, chosen.group, chosen.before, chosen.late_ms):
            return 1
    except FeedbackError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
