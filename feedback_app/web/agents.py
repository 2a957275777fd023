"""``/feedback/agents/{agentId}``: an agent's open windows, answered by the worker that owns the agent, and its recent
ones, from the database."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from faust.web import Request, Response, View
from yarl import URL

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import to_json, window_document
from feedback_app.core.partitioning import partition_of
from feedback_app.core.state import window_of
from feedback_app.sinks import SinkUnavailable
from feedback_app.sinks.archive import Archive
from feedback_app.web.api import Problem, integer, parameter
from feedback_app.web.peers import FORWARDED, JSON, NoPeer, ask_peer, own_url, owner_of
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

_LARGEST_ANSWER: Final = 16 << 20
_RECENT: Final = 50
MOST_RECENT: Final = 500
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|\+00:00)", re.ASCII)


def agent_views(app: Any, table: FeedbackWindows, partitions: int, archive: Archive | None) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Agent(View):
        """One agent's windows as JSON."""

        async def get(self, request: Request, agent_id: str, **_: Any) -> Response:
            if not 1 <= len(agent_id) <= 128:
                return self.json({"error": "an agentId has 1 to 128 characters"}, status=400)
            try:
                limit, before = integer(request, "limit", _RECENT, 0, MOST_RECENT), _before(request)
            except Problem as problem:
                return self.json({"error": problem.message}, status=problem.status)
            number = partition_of(agent_id, partitions)
            if table.owned(number) is not None:
                recent = await _recent(archive, agent_id, before, limit)
                # Looked at again, after the pause: it may be given up by now.
                if (owned := table.owned(number)) is not None:
                    body = to_json({"agentId": agent_id, "partition": number, "open": _open(owned, agent_id), **recent})
                    return self.bytes(body, content_type=JSON)
            if FORWARDED in request.headers:
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            return await self._ask_the_owner(request, agent_id, number, limit, before)

        async def _ask_the_owner(
            self, request: Request, agent_id: str, number: int, limit: int, before: datetime | None
        ) -> Response:
            """Pass the request on to the worker that Faust's assignment names as the owner."""
            url = owner_of(app.assignor.tables_metadata(), table.changelog, number)
            if url is None or url == own_url(app):
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            # Encoded by us alone: yarl would take an agentId of dots for a step up.
            query = f"limit={limit}" + (f"&before={quote(_text(before), safe='')}" if before else "")
            target = URL(f"{url}/feedback/agents/{quote(agent_id, safe='')}?{query}", encoded=True)
            try:
                status, body = await ask_peer(app, request, target, _LARGEST_ANSWER)
            except NoPeer as error:
                return self.json({"error": f"the owner of partition {number} does not answer: {error}"}, status=502)
            return self.bytes(body, content_type=JSON, status=status)

    # Faust's way of writing it would leave out an agentId with braces.
    return {"/feedback/agents/{agent_id:[^/]+}": Agent}


def _open(owned: OwnedPartition, agent_id: str) -> list[dict[str, Any]]:
    stored = owned.state.open_windows_of(agent_id)
    return [window_document(window_of(key), Aggregate.decode(value)) for key, value in stored]


async def _recent(archive: Archive | None, agent_id: str, before: datetime | None, limit: int) -> dict[str, Any]:
    """Return the agent's closed windows, newest first, or why there are none: the open ones are told all the same."""
    if limit == 0:
        return {"recent": [], "next": None, "recentError": None}
    try:
        if archive is None:
            raise SinkUnavailable("there is no database to ask")
        page = await archive.recent(agent_id, before, limit)
    except SinkUnavailable as error:
        return {"recent": [], "next": None, "recentError": f"the database does not answer: {error.message}"}
    return {"recent": page.documents, "next": _text(page.next) if page.next else None, "recentError": None}


def _before(request: Request) -> datetime | None:
    given = parameter(request, "before")
    if given is None:
        return None
    problem = Problem(400, "before: must be a time such as 2026-01-31T12:00:00Z, or what the last answer had as next")
    if _TIME.fullmatch(given) is None:
        raise problem
    try:
        return datetime.fromisoformat(given)
    except ValueError:
        raise problem from None


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
