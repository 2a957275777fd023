"""``/feedback/agents/{agentId}``: an agent's open windows, answered by the worker that owns the agent.

A request is passed on with the caller's token, to the URL that the owner has told the group. So whoever may join the
consumer group is trusted with the token; it is Kafka's ACLs that say who may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from faust.web import Request, Response, View
from yarl import URL

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import to_json, window_document
from feedback_app.core.partitioning import partition_of
from feedback_app.core.state import window_of
from tables.feedback_windows import FeedbackWindows

#: Marks a request that another worker has passed on: it is passed on once at most, whatever the workers believe.
FORWARDED: Final = "X-Feedback-Forwarded"
_ANSWER_S: Final = 5.0
_LARGEST_ANSWER: Final = 16 << 20
_JSON: Final = "application/json"
_ADDRESS: Final = re.compile(r"http://(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(:[0-9]{1,5})?/?")


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
                return self.bytes(body, content_type=_JSON)
            if FORWARDED in request.headers:
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            return await self._ask_the_owner(request, agent_id, number)

        async def _ask_the_owner(self, request: Request, agent_id: str, number: int) -> Response:
            """Pass the request on, as it came, to the worker that Faust's assignment names as the owner."""
            url = owner_of(app.assignor.tables_metadata(), table.changelog, number)
            if url is None or url == str(app.conf.canonical_url).rstrip("/"):
                return self.json({"error": f"partition {number} is changing hands; try again"}, status=503)
            headers = {FORWARDED: "1"}
            if "Authorization" in request.headers:
                headers["Authorization"] = request.headers["Authorization"]
            # Encoded by us alone: yarl would take an agentId of dots for a step up.
            target = URL(f"{url}/feedback/agents/{quote(agent_id, safe='')}", encoded=True)
            timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
            try:
                # A redirect would take the token elsewhere.
                async with app.http_client.get(
                    target, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer:
                    if answer.content_type == _JSON:
                        return self.bytes(
                            await limited(answer, _LARGEST_ANSWER), content_type=_JSON, status=answer.status
                        )
                    reason = "it is no worker"
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                reason = type(error).__name__
            return self.json({"error": f"the owner of partition {number} does not answer: {reason}"}, status=502)

    # Faust's way of writing it would leave out an agentId with braces.
    return {"/feedback/agents/{agent_id:[^/]+}": Agent}


async def limited(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body of an answer.

    Raises:
        ValueError: it has more than *most* bytes.
    """
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most:
            raise ValueError("the answer is too large")
    return bytes(body)


def owner_of(metadata: Mapping[str, Mapping[str, Any]], changelog: str, number: int) -> str | None:
    """Return the URL of the worker that *metadata* (by URL, then topic: partitions) names for a partition.

    None as well for what is no plain ``http://host:port``: workers name nothing else.
    """
    for url, topics in metadata.items():
        if number in topics.get(changelog, ()):
            return url.rstrip("/") if _ADDRESS.fullmatch(url) else None
    return None
