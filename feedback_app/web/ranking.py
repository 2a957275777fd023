"""``/feedback/agents``: the agents of the latest closed windows, by volume or by their share of negative ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, get_args

from faust.web import Request, View

from feedback_app.sinks import SinkUnavailable
from feedback_app.sinks.archive import Archive, Order, newest_windows
from feedback_app.web.api import Problem, choice, encode, integer, json_view
from feedback_app.web.cluster import Cluster
from feedback_app.web.shared import Shared

#: The latest windows that are looked at.
_WINDOWS: Final = 3
MOST_AGENTS: Final = 100
MOST_OFFSET: Final = 10_000
_LEAST_EVENTS: Final = 10
#: An answer is kept for five seconds; one that took the database long, for so long that it works on them for a tenth
#: of its time at most.
_FRESH_S: Final = 5.0
_SHARE: Final = 0.1
#: And shown for so much longer, while a new one is being made.
_STALE_S: Final = 30.0

_COUNTS: Final = ("events", "positive", "negative", "neutral")
_ORDERS: Final[Sequence[str]] = get_args(Order)


class Ranking:
    """Asks the database for the agents, seldom."""

    def __init__(self, cluster: Cluster, archive: Archive | None, window_ms: int) -> None:
        self._cluster = cluster
        self._archive = archive
        self._window_ms = window_ms
        self._answers = Shared[bytes](_FRESH_S, stale_s=_STALE_S, share=_SHARE)

    async def answer(self, request: Request) -> bytes:
        """Return a page of agents as JSON.

        Raises:
            Problem: the parameters make no sense, or the database is away.
        """
        order: Any = choice(request, "order", _ORDERS)
        limit = integer(request, "limit", 20, 1, MOST_AGENTS)
        offset = integer(request, "offset", 0, 0, MOST_OFFSET)
        least = integer(request, "minEvents", _LEAST_EVENTS if order == "negative" else 0, 0, 1_000_000_000)
        watermark = (await self._cluster.overview(request)).watermark
        if watermark is None:
            return encode({"from": None, "to": None, "agents": [], "next": None})
        bounds = newest_windows(watermark, self._window_ms, _WINDOWS)

        async def ask() -> bytes:
            return await self._ask(order, *bounds, least, offset, limit)

        # Not by the windows that are the newest now: these change more often than an answer may cost.
        return await self._answers.get((order, least, offset, limit), ask)

    async def _ask(self, order: Order, after: datetime, until: datetime, least: int, offset: int, limit: int) -> bytes:
        if self._archive is None:
            raise Problem(503, "there is no database to ask")
        try:
            found = await self._archive.ranked(order, after, until, least=least, skip=offset, limit=limit + 1)
        except SinkUnavailable as error:
            raise Problem(503, f"the database does not answer: {error.message}", retry_after_s=5) from None
        following = offset + limit
        agents = [_agent(document) for document in found[:limit] if isinstance(document["_id"], str)]
        more = len(found) > limit and following <= MOST_OFFSET
        return encode({"from": after, "to": until, "agents": agents, "next": following if more else None})


def _agent(document: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: int(document[name]) for name in _COUNTS}
    share = round(counts["negative"] / counts["events"], 4) if counts["events"] else 0.0
    return {"agentId": document["_id"], **counts, "negativeShare": share}


def ranking_views(ranking: Ranking) -> dict[str, type[View]]:
    """Return the views, by path."""

    return {"/feedback/agents": json_view(ranking.answer)}
