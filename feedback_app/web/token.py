"""The bearer token that guards every page but health."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web

from feedback_app.settings import PREFIX, Settings
from feedback_app.web.answers import Handler


def token_guard(settings: Settings) -> list[Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]]:
    """Return the middlewares that ask for ``FEEDBACK_WEB_TOKEN``; none when there is no token."""
    if settings.web_token is None:
        return []
    expected = f"Bearer {settings.web_token.get_secret_value()}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/health/"):
            return await handler(request)
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, expected):
            return web.json_response(
                {"error": "a bearer token is needed"}, status=401, headers={"WWW-Authenticate": "Bearer"}
            )
        return await handler(request)

    return [guard]


def open_to_others(settings: Settings) -> str:
    """Return a warning when the web port listens beyond this machine and asks for no token; empty otherwise."""
    if settings.web_token is not None or _is_local(settings.web_host):
        return ""
    return (
        f"{PREFIX}WEB_HOST={settings.web_host!r} and no {PREFIX}WEB_TOKEN: whoever reaches port {settings.web_port} "
        f"sees all pages and can send events; set {PREFIX}WEB_TOKEN"
    )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
