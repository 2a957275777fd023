"""Who is compared with whom, and at how much ours has to be ahead.

All do the same job on the same input: count the events of each chat agent in one-minute windows of event time, with
state that survives the process, and publish every window that is due. What each of them is short of is said here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from benchmarks.peers import environments, kafka_streams

_HERE: Final = sys.executable


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        name: in results.
        what: for people.
        command: returns what one of its processes is started with; builds or installs it when that has to be done.
        members: how many processes it runs as.
        windows: publishing the due windows is on its clock; else counting alone is.
        commits: its progress shows in the offsets that its consumer group has committed.
        share: it is so slow that it gets every n-th event only, and takes part in the first round only.
        patience: for how many seconds to wait, once the clock has stopped, for the first window if there was none yet.
        quiet: its output is complete when nothing has come for as many seconds.
    """

    name: str
    what: str
    command: Callable[[], Sequence[str]]
    members: int = 1
    windows: bool = True
    commits: bool = True
    share: bool = False
    patience: float = 10
    quiet: float = 2


class Bar(NamedTuple):
    """By how much *ours* has to be faster than *other*."""

    other: str
    at_least: float
    aim: float


def _ours(module: str = "our_worker") -> Sequence[str]:
    return (_HERE, "-m", "faust", "-A", f"benchmarks.{module}", "worker", "-l", "warn")


def _stock() -> Sequence[str]:
    return (_HERE, "-m", "faust", "--loop", "uvloop", "-A", "benchmarks.stock_faust", "worker", "-l", "warn")


def _quix() -> Sequence[str]:
    return (str(environments.environment("quix_streams")), "benchmarks/peers/quix_streams/app.py")


def _bytewax(*arguments: str) -> Sequence[str]:
    return (str(environments.environment("bytewax")), "benchmarks/peers/bytewax/flow.py", *arguments)


def _loop(module: str, *arguments: str) -> Sequence[str]:
    return (_HERE, "-m", module, *arguments)


OURS: Final = Peer(
    "ours", "this application: transactions, changelog, RocksDB; its documents go to a sink that counts", _ours
)

STOCK: Final = Peer(
    "stock_faust",
    "stock Faust's windowed table, at least once; its windows close later, off the clock",
    _stock,
    windows=False,
    share=True,
    # Faust looks for expired windows every 30 s unless told otherwise, for the first time a minute after its start.
    patience=70,
    quiet=35,
)

PEERS: Final = (
    OURS,
    Peer("ours_2", "the same, two workers of one group", _ours, members=2),
    Peer("ours_python", "one, its compiled part not installed", partial(_ours, "our_worker_in_python")),
    Peer(
        "kafka_streams",
        "Kafka Streams, one thread, at least once",
        partial(kafka_streams.command, 1, "at_least_once"),
    ),
    Peer(
        "kafka_streams_2",
        "Kafka Streams, two threads, at least once",
        partial(kafka_streams.command, 2, "at_least_once"),
    ),
    Peer(
        "kafka_streams_exact",
        "Kafka Streams, one thread, exactly once",
        partial(kafka_streams.command, 1, "exactly_once_v2"),
    ),
    Peer(
        "kafka_streams_exact_2",
        "Kafka Streams, two threads, exactly once",
        partial(kafka_streams.command, 2, "exactly_once_v2"),
    ),
    Peer("bytewax", "Bytewax, one worker, recovery on, tuned", _bytewax, commits=False, patience=30),
    Peer(
        "bytewax_plain",
        "the same as it comes: batches of 1,000, Python's own garbage collector",
        partial(_bytewax, "--plain"),
        commits=False,
        patience=30,
    ),
    Peer("quix_streams", "Quix Streams, changelog on, at least once", _quix, patience=30),
    STOCK,
    Peer(
        "bare_aiokafka",
        "aiokafka, orjson and a dict: stores nothing, closes nothing",
        partial(_loop, "benchmarks.peers.aiokafka_loop"),
        windows=False,
    ),
    Peer(
        "bare",
        "confluent-kafka, orjson and a dict: stores nothing, closes nothing",
        partial(_loop, "benchmarks.bare_loop"),
        windows=False,
    ),
    Peer(
        "bare_tuned",
        "the same, without librdkafka's second of rest whenever its queue is full",
        partial(_loop, "benchmarks.bare_loop", "--tuned"),
        windows=False,
    ),
)

#: Whose results decide on the exit code: a peer that loses windows is shown, and is no failure of the comparison.
MUST_BE_RIGHT: Final = frozenset({OURS.name, "ours_2", "ours_python", "bare_aiokafka", "bare", "bare_tuned"})

#: What a worker process of ours has to reach.
BARS: Final = (
    Bar("kafka_streams", 2, 3),
    Bar("bytewax", 5, 7),
    Bar("bytewax_plain", 5, 7),
    Bar("quix_streams", 6, 10),
    Bar("stock_faust", 60, 100),
    Bar("bare", 0.5, 0.7),
    Bar("bare_tuned", 0.5, 0.7),
)
#: So much CPU time an event may two workers spend at most, compared with one.
MOST_CPU_OF_TWO: Final = 1.1
