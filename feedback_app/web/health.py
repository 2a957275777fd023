"""``/health/live`` and ``/health/ready``: for orchestrators; no token needed."""

from __future__ import annotations

from typing import Any

from faust.web import Request, Response, View

from feedback_app.health import Health
from feedback_app.liveness import Liveness
from tables.feedback_windows import FeedbackWindows


def health_views(table: FeedbackWindows, health: Health, liveness: Liveness) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Live(View):
        """200, or 503 with the reasons once a part of the worker has died or hangs."""

        async def get(self, request: Request, **_: Any) -> Response:
            if reasons := liveness.reasons():
                return self.json({"status": "dead", "reasons": reasons}, status=503)
            return self.json({"status": "live"})

    class Ready(View):
        """200 once the assigned partitions are restored, also while degraded, with the reasons; 503 before."""

        async def get(self, request: Request, **_: Any) -> Response:
            reason = table.not_ready()
            if reason:
                return self.json({"status": "starting", "reason": reason}, status=503)
            degraded = health.degraded()
            return self.json({"status": "degraded" if degraded else "ready", "reasons": degraded})

    return {"/health/live": Live, "/health/ready": Ready}
