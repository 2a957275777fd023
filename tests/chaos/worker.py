"""The worker that the suite disturbs: ``faust -A tests.chaos.worker worker``. The real one, and what is put around it.

``CHAOS_FAULTS``: faults at named points. ``CHAOS_BREAK``: a rule that is broken. ``CHAOS_CLOCK_MS``: how far its clock
is ahead. ``CHAOS_TRANSACTION_MS``: after what time the broker aborts its transactions. ``CHAOS_FILE_BYTES``: no file
may grow larger, as on a disk that is full. ``CHAOS_TRIM_S``: how often forwarded records are trimmed.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feedback_app.application import FeedbackApp

    app: FeedbackApp


def __getattr__(name: str) -> Any:
    """Build ``app`` when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feedback_app.factory import create_app
    from feedback_app.settings import load_settings

    _disturb()
    built = globals()["app"] = create_app(load_settings(), clock=_clock())
    return built


def _disturb() -> None:
    import feedback_app.transport.transactions
    import tables.feedback_windows
    from tests.chaos import breakages, faults

    # Often enough to happen in a scenario.
    tables.feedback_windows._TRIM_S = float(os.environ.get("CHAOS_TRIM_S", "2"))  # type: ignore[misc]  # that is the point
    faults.install(faults.Faults(faults.from_variable(os.environ.get(faults.VARIABLE, "[]"))))
    if broken := os.environ.get(breakages.VARIABLE):
        breakages.BREAKAGES[broken]()
    if timeout_ms := os.environ.get("CHAOS_TRANSACTION_MS"):
        feedback_app.transport.transactions.TRANSACTION_TIMEOUT_MS = int(timeout_ms)  # type: ignore[misc]  # on purpose
    if limit := os.environ.get("CHAOS_FILE_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))


def _clock() -> Any:
    from feedback_app.core.clock import SystemClock

    ahead_ms = int(os.environ.get("CHAOS_CLOCK_MS", "0"))

    class Ahead(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + ahead_ms

    return Ahead()
