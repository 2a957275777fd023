"""The application's compiled part (``native/``), where it is installed: without it Python does the same, slower."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from feedback_app import closing
from feedback_app.closing import Describe
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.core.documents import Document

logger = logging.getLogger(__name__)

#: What the application and its compiled part know of each other.
_INTERFACE: Final = 1


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
