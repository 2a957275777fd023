"""A worker that joins its group again as soon as it is ready. ``faust -A tests.services.rejoining_worker worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from feedback_app.application import FeedbackApp

    app: FeedbackApp

_LOOK_S: Final = 0.2


def __getattr__(name: str) -> Any:
    """Build ``app`` from the ``FEEDBACK_*`` environment when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feedback_app.factory import create_app
    from feedback_app.settings import load_settings
    from feedback_app.sinks.counting import CountingSink
    from feedback_app.transport.batches import BatchConsumer

    built = globals()["app"] = create_app(load_settings(), sink=CountingSink())

    async def rejoin() -> None:
        if not built.windows.not_ready():
            await cast(BatchConsumer, built.consumer).rejoin()

    built.timer(_LOOK_S)(rejoin)
    return built
