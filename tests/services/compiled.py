"""The compiled part of the application, where it is installed."""

from __future__ import annotations

import importlib.util

from feedback_app import compiled
from feedback_app.core.counts import Counts, MakeCounts


def is_installed() -> bool:
    return importlib.util.find_spec("feedback_native") is not None


def every_counts() -> list[MakeCounts]:
    """Return all that can count: Python, and the compiled part where there is one."""
    return [Counts, compiled.counts()] if is_installed() else [Counts]
