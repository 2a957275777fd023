"""``/metrics``: for Prometheus, as text or as OpenMetrics, whichever it asks for."""

from __future__ import annotations

import asyncio
from typing import Any

from faust.web import Request, Response, View

from feedback_app.metrics import Metrics


def metrics_views(metrics: Metrics) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Scrape(View):
        """All metrics of this worker."""

        async def get(self, request: Request, **_: Any) -> Response:
            # Read here, where they change, which takes a millisecond for eight partitions. Writing it all down takes
            # three times as long.
            render = metrics.snapshot(request.headers.get("Accept", ""))
            body, content_type = await asyncio.to_thread(render)
            return self.bytes(body, headers={"Content-Type": content_type})

    return {"/metrics": Scrape}
