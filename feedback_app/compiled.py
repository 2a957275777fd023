"""The application's compiled part (``native/``), where it is installed: without it Python does the same, slower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import confluent_kafka

from feedback_app import closing
from feedback_app.closing import Describe
from feedback_app.core import partitioning
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.core.documents import Document
from feedback_app.transport.clients import ConfluentClient, MakeClient
from feedback_app.transport.readers import ConfluentReader, MakeReader

logger = logging.getLogger(__name__)

#: What the application and its compiled part know of each other.
_INTERFACE: Final = 5


def counts() -> MakeCounts:
    """Return what counts events: compiled, or in Python."""
    native = _native()
    return Counts if native is None else native.Counts


def partitioner(partitions: int) -> Callable[[str], int]:
    """Return what says which of so many partitions an agent belongs to: compiled, or in Python."""
    native = _native()
    if native is None:
        return partitioning.partitioner(partitions)

    def partition_of(agent_id: str) -> int:
        partition: int = native.partition_of(agent_id, partitions)
        return partition

    return partition_of


def describe() -> Describe:
    """Return what describes windows that are closed: compiled, or in Python."""
    native = _native()
    if native is None:
        return closing.describe

    def describe_compiled(due: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[Document, bytes]]:
        for window, described in zip(due, native.describe(due), strict=True):
            yield described or next(closing.describe([window]))

    return describe_compiled


def client() -> MakeClient:
    """Return what makes a producer of transactions: compiled, or confluent-kafka's."""
    library = _librdkafka()
    return ConfluentClient if library is None else lambda config: library.producer(_options(config))


def reader() -> MakeReader:
    """Return what makes a reader of source topics: compiled, or confluent-kafka's."""
    library = _librdkafka()
    return ConfluentReader if library is None else lambda config, number: library.reader(_options(config), number)


def _options(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return librdkafka's own form of *config*: texts. The compiled part hears of errors by itself."""
    return [
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in config.items()
        if not callable(value)
    ]


@cache
def _librdkafka() -> Any:
    """Return the librdkafka that confluent-kafka's wheel brings, loaded; None where it can't be used so."""
    native = _native()
    if native is None:
        return None
    package = Path(confluent_kafka.__file__).parent
    folders = (package.with_name("confluent_kafka.libs"), package / ".dylibs")  # Linux, macOS
    found = [path for folder in folders for path in sorted(folder.glob("librdkafka[-.]*"))]
    try:
        return native.Librdkafka(found[0])  # it is another library where confluent-kafka was compiled on this machine
    except (IndexError, OSError) as error:
        logger.warning("Records are fetched and sent through confluent-kafka, which is slower: %r", error)
        return None


@cache
def _native() -> Any:
    """Return the compiled part, or None where there is none that fits."""
    try:
        import feedback_native
    except ModuleNotFoundError:
        logger.info("Events are counted in Python: feedback_native is not installed, which does it faster.")
        return None
    if feedback_native.INTERFACE != _INTERFACE:
        logger.warning(
            "Events are counted in Python: feedback_native has interface %s, and %s is needed. Install it anew.",
            feedback_native.INTERFACE,
            _INTERFACE,
        )
        return None
    return feedback_native
