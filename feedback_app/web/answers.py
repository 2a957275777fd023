"""What holds for every answer of the web port: it is what its content type says, and an error quotes nothing."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: A browser must not take JSON that holds what a user wrote for a page.
_HEADERS: Final = {"X-Content-Type-Options": "nosniff"}


@web.middleware
async def plain_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with ``nosniff``; errors, also those of aiohttp, as JSON without details. Goes before all others."""
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        allow = {name: value for name, value in error.headers.items() if name == "Allow"}
        answer = web.json_response({"error": error.reason.lower()}, status=error.status, headers=allow)
    except Exception as error:  # noqa: BLE001  # whatever it is, its message may hold what a user wrote
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a page failed: %s\n%s", type(error).__name__, where)
        answer = web.json_response({"error": "internal server error"}, status=500)
    answer.headers.update(_HEADERS)
    return answer
