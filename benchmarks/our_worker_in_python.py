"""Ours where its compiled part is not installed. ``faust -A benchmarks.our_worker_in_python worker``."""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """Let ``benchmarks.our_worker`` build ``app``, without what ``feedback_app.compiled`` looks for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    sys.modules["feedback_native"] = None  # type: ignore[assignment]  # an import of it finds nothing
    from benchmarks.our_worker import app

    return app
