"""Asking all workers of the cluster the same, and ``/feedback/overview`` and ``/feedback/history`` out of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from faust.web import Request, View
from yarl import URL

from feedback_app.core.clock import Clock
from feedback_app.core.documents import date
from feedback_app.history import PartHistory, merged
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web.api import encode, json_view
from feedback_app.web.overview import Scene, overview
from feedback_app.web.own import Own
from feedback_app.web.peers import FORWARDED, NoPeer, ask_peer, members, own_url, owner_of
from feedback_app.web.shared import Shared
from feedback_app.web.shares import Share
from tables.feedback_windows import FeedbackWindows

_T = TypeVar("_T")

_LARGEST_ANSWER: Final = 4 << 20
#: A worker that takes longer is shown as silent: the others must not wait for it with every look.
_ANSWER_S: Final = 1.0
_FRESH_S: Final = 1.0
#: How old an answer may be for who looks again and again: no older than he was away.
_OVERVIEW_STALE_S: Final = 3.0
_HISTORY_STALE_S: Final = 10.0
#: A worker is asked by each of the others.
_OWN_FRESH_S: Final = 0.5

_read_share: Final = msgspec.json.Decoder(Share).decode
_read_history: Final = msgspec.json.Decoder(PartHistory).decode

OVERVIEW: Final = "/feedback/overview"
HISTORY: Final = "/feedback/history"


class Seen(NamedTuple):
    """An overview as JSON; and up to when windows are closed, somewhere: None where none is yet."""

    body: bytes
    watermark: datetime | None


class Cluster:
    """What is known of all workers; asked for once a second at most, however many watch."""

    def __init__(
        self, app: Any, table: FeedbackWindows, settings: Settings, topics: Topics, own: Own, clock: Clock
    ) -> None:
        self._app = app
        self._table = table
        self._topics = topics
        self._own = own
        self._clock = clock
        self._shown = {
            "mode": settings.batching_mode.value,
            "windowMs": settings.batch_time_ms,
            "graceMs": settings.grace_ms,
        }
        self._overviews = Shared[Seen](_FRESH_S, stale_s=_OVERVIEW_STALE_S)
        self._histories = Shared[bytes](_FRESH_S, stale_s=_HISTORY_STALE_S)
        self._told: dict[str, tuple[float, bytes]] = {}

    async def overview(self, request: Request, *, patient: bool = False) -> Seen:
        """Return the overview: of a moment ago, unless *patient*. The others are asked on behalf of *request*, or of
        who else has asked."""
        return await self._overviews.get(OVERVIEW, lambda: self._overview(request), patient=patient)

    async def overview_answer(self, request: Request) -> bytes:
        """Return the overview as JSON; to another worker, our share of it."""
        if FORWARDED in request.headers:
            return self._tell(OVERVIEW, self._own.share)
        return (await self.overview(request)).body

    async def history_answer(self, request: Request) -> bytes:
        """Return the history as JSON; to another worker, our part of it."""
        if FORWARDED in request.headers:
            return self._tell(HISTORY, self._own.history.part)
        return await self._histories.get(HISTORY, lambda: self._history(request))

    def _tell(self, path: str, make: Callable[[], object]) -> bytes:
        """Return what another worker is told; made anew twice a second at most."""
        now = time.monotonic()
        made_at, body = self._told.get(path, (-math.inf, b""))
        if now - made_at >= _OWN_FRESH_S:
            made_at, body = self._told[path] = now, encode(make())
        return body

    async def _overview(self, request: Request) -> Seen:
        theirs = await self._ask_all(request, OVERVIEW, _read_share)
        shares: dict[str, Share | None] = {self._us: self._own.share(), **theirs}
        scene = Scene(self._shown, self._topics.sources, self._owners())
        now = date(self._clock.now_ms())
        seen = overview(scene, now, shares)
        watermarks = [row["watermark"] for row in seen["partitions"] if row["watermark"]]
        # One event may be a little ahead of the clock, and of all others.
        return Seen(encode(seen), min(now, max(watermarks)) if watermarks else None)

    async def _history(self, request: Request) -> bytes:
        theirs = await self._ask_all(request, HISTORY, _read_history)
        parts = [self._own.history.part(), *(part for part in theirs.values() if part is not None)]
        silent = [url for url, part in theirs.items() if part is None]
        return encode(merged(parts, self._clock.now_ms(), silent))

    def _owners(self) -> dict[int, str | None]:
        """Return the owner of each partition. Of our own we know best: the group may already say otherwise."""
        metadata = self._app.assignor.tables_metadata()
        owners = {
            number: owner_of(metadata, self._table.changelog, number) for number in range(self._topics.partitions)
        }
        return owners | {number: self._us for number, _, _ in self._table.held() if number in owners}

    async def _ask_all(self, request: Request, path: str, decode: Callable[[bytes], _T]) -> Mapping[str, _T | None]:
        """Return, by its URL, what each other worker says; None where it says nothing, or nothing that a worker
        says."""
        others = sorted(members(self._app.assignor.tables_metadata()) - {self._us})
        asking = [self._ask(request, url, path, decode) for url in others]
        return dict(zip(others, await asyncio.gather(*asking), strict=True))

    async def _ask(self, request: Request, url: str, path: str, decode: Callable[[bytes], _T]) -> _T | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                status, body = await ask_peer(self._app, request, URL(url + path), _LARGEST_ANSWER)
            return decode(body) if status == 200 else None
        except (NoPeer, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def _us(self) -> str:
        return own_url(self._app)


def cluster_views(cluster: Cluster) -> dict[str, type[View]]:
    """Return the views, by path."""

    return {OVERVIEW: json_view(cluster.overview_answer), HISTORY: json_view(cluster.history_answer)}
