"""The application's compiled part (``native/``), where it is installed: without it Python does the same, slower."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import confluent_kafka

from feedback_app import closing
from feedback_app.closing import Describe
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.core.documents import Document
from feedback_app.transport.clients import ConfluentClient, MakeClient, TransactionalClient
from feedback_app.transport.readers import ConfluentReader, MakeReader, Reader

logger = logging.getLogger(__name__)

#: What the application and its compiled part know of each other.
_INTERFACE: Final = 2


def counts() -> MakeCounts:
    """Return what counts events: compiled, or in Python."""
    native = _native()
    return Counts if native is None else native.Counts


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
    native, library = _native(), _librdkafka()
    if native is None or library is None:
        return ConfluentClient

    def make(config: Mapping[str, Any]) -> TransactionalClient:
        made: TransactionalClient = native.Producer(library, _options(config))
        return made

    return make


def reader() -> MakeReader:
    """Return what makes a reader of source topics: compiled, or confluent-kafka's."""
    native, library = _native(), _librdkafka()
    if native is None or library is None:
        return ConfluentReader

    def make(config: Mapping[str, Any], partition: int) -> Reader:
        made: Reader = native.Reader(library, _options(config), partition)
        return made

    return make


def _options(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return librdkafka's own form of *config*: texts. The compiled part hears of errors by itself."""
    return [
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in config.items()
        if not callable(value)
    ]


@cache
def _librdkafka() -> Path | None:
    """Return the librdkafka that confluent-kafka's wheel brings; None where the compiled part can't use it."""
    package = Path(confluent_kafka.__file__).parent
    folders = (package.with_name("confluent_kafka.libs"), package / ".dylibs")  # Linux, macOS
    found = [path for folder in folders for path in sorted(folder.glob("librdkafka[-.]*"))]
    native = _native()
    if native is None:
        return None
    try:
        path = found[0]  # it is another library where confluent-kafka was compiled on this machine
        native.check_librdkafka(path)
    except (IndexError, OSError) as error:
        logger.warning("Records are fetched and sent through confluent-kafka, which is slower: %r", error)
        return None
    return path


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
