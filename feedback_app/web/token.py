"""The token that guards every page but health: as a bearer's header, or by way of a session's cookie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from feedback_app.settings import PREFIX, Settings
from feedback_app.web.accepting import prefers_html
from feedback_app.web.answers import Handler
from feedback_app.web.login_page import HOME, LOGIN, LOGOUT, login_page
from feedback_app.web.origin import is_of_this_origin
from feedback_app.web.sessions import Sessions, let_in

_BEARER: Final = "Bearer "
_SAFE_METHODS: Final = {"GET", "HEAD"}
_NEEDED: Final = {"WWW-Authenticate": "Bearer"}


def token_guard(sessions: Sessions | None) -> list[Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]]:
    """Return the middlewares that ask for ``FEEDBACK_WEB_TOKEN``; none when there is no token.

    A cookie counts below ``/feedback/`` only. Browsers send it by themselves, so what changes something also has to
    come from a page of ours; ``SameSite=Strict`` would still let through what another port of this host serves.
    """
    if sessions is None:
        return []

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/health/") or request.path in {LOGIN, LOGOUT}:
            return await handler(request)
        header = request.headers.get("Authorization", "")
        if header.startswith(_BEARER) and sessions.is_token(header.removeprefix(_BEARER)):
            return await handler(request)
        below = f"{request.path}/".startswith(HOME)
        if below and let_in(request, sessions):
            if request.method in _SAFE_METHODS or is_of_this_origin(request):
                return await handler(request)
            error = "with a cookie this is taken from a page of this origin only; programs send the bearer token"
            return web.json_response({"error": error}, status=403)
        if below and request.method in _SAFE_METHODS and prefers_html(request):
            return login_page(request.raw_path, status=401, headers=_NEEDED)
        return web.json_response({"error": "a bearer token is needed"}, status=401, headers=_NEEDED)

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
