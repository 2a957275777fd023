"""``/feedback/stream``: the overview every two seconds, as server-sent events, for a bounded number of watchers.

It is made once for all of them, and only while there is one. A watcher who reads slowly gets the newest one next, not
those that he has missed; one who reads nothing is let go.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
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
    """The watchers. It belongs to the event loop."""

    def __init__(self, cluster: Cluster, *, every_s: float = _EVERY_S, most: int = MOST_WATCHERS) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self._most = most
        self._watchers = 0
        self._stopping = asyncio.Event()

    async def watch(self, request: Request) -> web.StreamResponse:
        """Show a watcher one overview after the other, until he goes away or the worker stops."""
        if self._stopping.is_set() or self._watchers >= self._most:
            why = "the worker is being stopped" if self._stopping.is_set() else "too many watch already"
            return Problem(503, why, retry_after_s=5).answer()
        self._watchers += 1
        try:
            return await self._watch(request)
        finally:
            self._watchers -= 1

    def close(self) -> None:
        """Take leave of all watchers; they are told by the end of the stream."""
        self._stopping.set()

    async def _watch(self, request: Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        plain: Any = request  # aiohttp's, whatever Faust declares
        try:
            await response.prepare(plain)
            await response.write(_RETRY)
            while not self._stopping.is_set():
                seen = await self._cluster.overview(request)
                async with asyncio.timeout(_READ_S):
                    await response.write(b"event: overview\ndata: " + seen.body + b"\n\n")
                await self._next()
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            response.force_close()  # he is gone, or reads nothing
        return response

    async def _next(self) -> None:
        """Wait for the next overview, or the end: all watchers wait for the same moments."""
        now = asyncio.get_running_loop().time()
        moment = math.ceil(now / self._every_s + 0.5) * self._every_s
        with suppress(TimeoutError):
            async with asyncio.timeout(moment - now):
                await self._stopping.wait()


def stream_views(stream: Stream) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Watching(View):
        """The overview, again and again."""

        async def get(self, request: Request, **_: Any) -> Response:
            return cast(Response, await stream.watch(request))

        async def head(self, request: Request, **_: Any) -> Response:
            return cast(Response, web.Response(headers=_STREAM_HEADERS))

    return {"/feedback/stream": Watching}
