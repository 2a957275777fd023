"""Asking another worker of the group, on behalf of whoever has asked this one.

The caller's token is passed on, or a session is begun on behalf of a caller with a session, to the address that the
other worker has told the group. So whoever may join the consumer group is trusted with it; it is Kafka's ACLs that say
who may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import aiohttp
from aiohttp import web
from faust.web import Request
from yarl import URL

from feedback_app.web.sessions import vouched

#: Marks a request that another worker has passed on: it is passed on once at most, whatever the workers believe.
FORWARDED: Final = "X-Feedback-Forwarded"
JSON: Final = "application/json"
_ANSWER_S: Final = 5.0
_ADDRESS: Final = re.compile(r"http://(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(:[0-9]{1,5})?/?")


class NoPeer(Exception):
    """The other worker does not answer, or is none; the message says which, and quotes nothing."""


async def ask_peer(app: Any, request: Request, url: URL, most: int) -> tuple[int, bytes]:
    """Pass *request* on to *url*; return the status of the answer, and its body, which is JSON, or says that it is.

    Args:
        most: bytes that the body may have.

    Raises:
        NoPeer: there is no such answer within five seconds.
    """
    headers = {FORWARDED: "1"}
    if "Authorization" in request.headers:
        headers["Authorization"] = request.headers["Authorization"]
    headers |= vouched(cast(web.Request, request))
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    try:
        # A redirect would take the token elsewhere.
        async with app.http_client.get(url, headers=headers, timeout=timeout, allow_redirects=False) as answer:
            if answer.content_type != JSON:
                raise NoPeer("it is no worker")
            return answer.status, await _limited(answer, most)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NoPeer(type(error).__name__) from None


def own_url(app: Any) -> str:
    """Return the URL of this worker, as it has told the group."""
    return str(app.conf.canonical_url).rstrip("/")


def owner_of(metadata: Mapping[str, Mapping[str, Any]], changelog: str, number: int) -> str | None:
    """Return the URL of the worker that *metadata* (by URL, then topic: partitions) names for a partition.

    None as well for what is no plain ``http://host:port``: workers name nothing else.
    """
    for url, topics in metadata.items():
        if number in topics.get(changelog, ()):
            return url.rstrip("/") if _ADDRESS.fullmatch(url) else None
    return None


def members(metadata: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the URLs of all workers that *metadata* names, less what is no plain ``http://host:port``."""
    return {url.rstrip("/") for url in metadata if _ADDRESS.fullmatch(url)}


async def _limited(answer: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most:
            raise ValueError("the answer is too large")
    return bytes(body)
