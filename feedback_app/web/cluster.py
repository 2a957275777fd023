"""Asking all workers of the cluster the same, and ``/feedback/overview`` and ``/feedback/history`` out of it."""

from __future__ import annotations

import asyncio
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
from feedback_app.web.api import JsonView, encode
from feedback_app.web.overview import Scene, overview
from feedback_app.web.own import Own
from feedback_app.web.peers import FORWARDED, NoPeer, ask_peer, members, owner_of
from feedback_app.web.shared import Shared
from feedback_app.web.shares import Share
from tables.feedback_windows import FeedbackWindows

_T = TypeVar("_T")

_LARGEST_ANSWER: Final = 4 << 20
#: A worker that takes longer is shown as silent: the others must not wait for it with every look.
_ANSWER_S: Final = 1.0
_FRESH_S: Final = 1.0
#: A worker is asked by each of the others; and its answer adds its age to theirs.
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
        self._overviews = Shared[Seen](_FRESH_S)
        self._answers = Shared[bytes](_FRESH_S)
        self._own_answers = Shared[bytes](_OWN_FRESH_S)

    async def overview(self, request: Request) -> Seen:
        """Return the overview. The others are asked on behalf of *request*, or of who has asked a moment ago."""
        return await self._overviews.get(OVERVIEW, lambda: self._overview(request))

    async def overview_answer(self, request: Request) -> bytes:
        """Return the overview as JSON; to another worker, our share of it."""
        if FORWARDED in request.headers:
            return await self._own_answers.get(OVERVIEW, self._own_share)
        return (await self.overview(request)).body

    async def history_answer(self, request: Request) -> bytes:
        """Return the history as JSON; to another worker, our part of it."""
        if FORWARDED in request.headers:
            return await self._own_answers.get(HISTORY, self._own_history)
        return await self._answers.get(HISTORY, lambda: self._history(request))

    async def _own_share(self) -> bytes:
        return encode(self._own.share())

    async def _own_history(self) -> bytes:
        return encode(self._own.history.part())

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
        return str(self._app.conf.canonical_url).rstrip("/")


def cluster_views(cluster: Cluster) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Overview(JsonView):
        """The cluster now."""

        async def answer(self, request: Request, **_: Any) -> bytes:
            return await cluster.overview_answer(request)

    class LastHour(JsonView):
        """The cluster in the last hour."""

        async def answer(self, request: Request, **_: Any) -> bytes:
            return await cluster.history_answer(request)

    return {OVERVIEW: Overview, HISTORY: LastHour}
