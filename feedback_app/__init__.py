"""Feedback aggregation on Faust: ``faust -A feedback_app worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feedback_app.application import FeedbackApp

    app: FeedbackApp

__all__ = ["app"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Build ``app`` from the environment when it is first asked for: importing the package stays cheap."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feedback_app.factory import create_app
    from feedback_app.settings import load_settings

    built = globals()["app"] = create_app(load_settings())
    return built
