"""Ours: the real worker, with a sink that only counts. ``faust -A benchmarks.our_worker worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feedback_app.application import FeedbackApp

    app: FeedbackApp


def __getattr__(name: str) -> Any:
    """Build ``app`` from the ``FEEDBACK_*`` environment when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feedback_app.factory import create_app
    from feedback_app.settings import load_settings
    from feedback_app.sinks.counting import CountingSink

    built = globals()["app"] = create_app(load_settings(), sink=CountingSink())
    return built
