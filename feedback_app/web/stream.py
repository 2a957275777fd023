"""``/feedback/stream``: the overview every two seconds, as server-sent events, for a bounded number of watchers.

It is made once for all of them, and only while there is one. A watcher who reads slowly gets the newest one next, not
those that he has missed; one who reads nothing is let go.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from aiohttp import web
from faust.web import Request, Response, View

from feedback_app.web.api import HEADERS, Problem
from feedback_app.web.cluster import Cluster

_EVERY_S: Final = 2.0
MOST_WATCHERS: Final = 50
#: How long a watcher may take to read one overview.
_READ_S: Final = 10.0
_STREAM_HEADERS: Final = {
    **HEADERS,
    "Content-Type": "text/event-stream",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # a proxy must pass each event on at once
}
#: What a browser waits for before it comes back: not all of them at once to a worker that has just started.
_RETRY: Final = b"retry: 3000\n\n"


class Stream:
    """The watchers, and what they are shown. It belongs to the event loop."""

    def __init__(self, cluster: Cluster, *, every_s: float = _EVERY_S, most: int = MOST_WATCHERS) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self._most = most
        self._watchers: dict[object, Request] = {}
        self._shown = b""
        self._number = 0
        self._news = asyncio.Condition()
        self._showing: asyncio.Task[None] | None = None
        self._stopping = False

    async def watch(self, request: Request) -> web.StreamResponse:
        """Show a watcher one overview after the other, until he goes away or the worker stops."""
        if self._stopping or len(self._watchers) >= self._most:
            why = "the worker is being stopped" if self._stopping else "too many watch already"
            return Problem(503, why, retry_after_s=5).answer()
        watcher = object()
        self._watchers[watcher] = request
        try:
            return await self._watch(request)
        finally:
            del self._watchers[watcher]

    async def close(self) -> None:
        """Take leave of all watchers; they are told by the end of the stream."""
        self._stopping = True
        if self._showing is not None:
            self._showing.cancel()
        async with self._news:
            self._news.notify_all()

    async def _watch(self, request: Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        plain: Any = request  # aiohttp's, whatever Faust declares
        try:
            await response.prepare(plain)
            await response.write(_RETRY)
            seen = 0
            while await self._news_since(seen):
                seen = self._number
                async with asyncio.timeout(_READ_S):
                    await response.write(self._shown)
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            response.force_close()  # he is gone, or reads nothing
        return response

    async def _news_since(self, seen: int) -> bool:
        """Wait for an overview that has not been *seen*; False when there will be none."""
        self._show()
        async with self._news:
            await self._news.wait_for(lambda: self._stopping or self._number > seen)
        return not self._stopping

    def _show(self) -> None:
        """Make sure that overviews are being made."""
        if self._showing is None or self._showing.done():
            self._showing = asyncio.create_task(self._keep_showing())

    async def _keep_showing(self) -> None:
        """Make an overview every two seconds, on behalf of any watcher, while there is one."""
        loop = asyncio.get_running_loop()
        while self._watchers:
            due = loop.time() + self._every_s
            request = next(iter(self._watchers.values()))
            seen = await self._cluster.overview(request)
            async with self._news:
                self._shown = b"event: overview\ndata: " + seen.body + b"\n\n"
                self._number += 1
                self._news.notify_all()
            await asyncio.sleep(due - loop.time())


def stream_views(stream: Stream) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Watching(View):
        """The overview, again and again."""

        async def get(self, request: Request, **_: Any) -> Response:
            return cast(Response, await stream.watch(request))

        async def head(self, request: Request, **_: Any) -> Response:
            return cast(Response, web.Response(headers=_STREAM_HEADERS))

    return {"/feedback/stream": Watching}
