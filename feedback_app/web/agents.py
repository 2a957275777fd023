"""``/feedback/agents/{agentId}``: an agent's open windows, answered by the worker that owns the agent."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from faust.web import Request, Response, View
from yarl import URL

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import to_json, window_document
from feedback_app.core.partitioning import partition_of
from feedback_app.core.state import window_of
from feedback_app.web.peers import FORWARDED, JSON, NoPeer, ask_peer, owner_of
from tables.feedback_windows import FeedbackWindows

_LARGEST_ANSWER: Final = 16 << 20


def agent_views(app: Any, table: FeedbackWindows, partitions: int) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Agent(View):
        """One agent's open windows as JSON."""

        async def get(self, request: Request, agent_id: str, **_: Any) -> Response:
            if not 1 <= len(agent_id) <= 128:
                return self.json({"error": "an agentId has 1 to 128 characters"}, status=400)
            number = partition_of(agent_id, partitions)
            owned = table.owned(number)
            if owned is not None:
                stored = owned.state.open_windows_of(agent_id)
                windows = [window_document(window_of(key), Aggregate.decode(value)) for key, value in stored]
                body = to_json({"agentId": agent_id, "partition": number, "open": windows})
                return self.bytes(body, content_type=JSON)
            if FORWARDED in request.headers:
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            return await self._ask_the_owner(request, agent_id, number)

        async def _ask_the_owner(self, request: Request, agent_id: str, number: int) -> Response:
            """Pass the request on, as it came, to the worker that Faust's assignment names as the owner."""
            url = owner_of(app.assignor.tables_metadata(), table.changelog, number)
            if url is None or url == str(app.conf.canonical_url).rstrip("/"):
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            # Encoded by us alone: yarl would take an agentId of dots for a step up.
            target = URL(f"{url}/feedback/agents/{quote(agent_id, safe='')}", encoded=True)
            try:
                status, body = await ask_peer(app, request, target, _LARGEST_ANSWER)
            except NoPeer as error:
                return self.json({"error": f"the owner of partition {number} does not answer: {error}"}, status=502)
            return self.bytes(body, content_type=JSON, status=status)

    # Faust's way of writing it would leave out an agentId with braces.
    return {"/feedback/agents/{agent_id:[^/]+}": Agent}
