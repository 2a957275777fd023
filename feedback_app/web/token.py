"""The bearer token that guards every page but health."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from feedback_app.settings import Settings

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def token_guard(settings: Settings) -> list[Callable[[web.Request, _Handler], Awaitable[web.StreamResponse]]]:
    """Return the middlewares that ask for ``FEEDBACK_WEB_TOKEN``; none when there is no token."""
    if settings.web_token is None:
        return []
    expected = f"Bearer {settings.web_token.get_secret_value()}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path.startswith("/health/"):
            return await handler(request)
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, expected):
            return web.json_response(
                {"error": "a bearer token is needed"}, status=401, headers={"WWW-Authenticate": "Bearer"}
            )
        return await handler(request)

    return [guard]
