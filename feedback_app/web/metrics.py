"""``/metrics``: for Prometheus, as text or as OpenMetrics, whichever it asks for."""

from __future__ import annotations

from typing import Any

from faust.web import Request, Response, View

from feedback_app.metrics import Metrics


def metrics_views(metrics: Metrics) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Scrape(View):
        """All metrics of this worker."""

        async def get(self, request: Request, **_: Any) -> Response:
            # For eight partitions this takes as long as a slice of a fold does. In a thread of its own it would have to
            # wait for the interpreter besides.
            body, content_type = metrics.exposition(request.headers.get("Accept", ""))
            return self.bytes(body, headers={"Content-Type": content_type})

    return {"/metrics": Scrape}
