"""The pages for people: the same for everybody, since their scripts fetch what they show from the JSON beside them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from faust.web import Request, Response, View

from feedback_app.web.accepting import prefers_html
from feedback_app.web.answers import Handler
from feedback_app.web.assets import send_asset

#: Paths that answer with JSON, and browsers with a page; as they are sent, since an agentId may hold anything.
_PAGES: Final = (
    (re.compile(r"/feedback/agents/[^/]+"), "agent.html"),
    (re.compile(r"/feedback/dead-letters"), "letters.html"),
    (re.compile(r"/feedback/dead-letters/\d+/\d+", re.ASCII), "letter.html"),
)


def pages_for_browsers(*, login: bool) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Return the middleware that answers browsers with the page of a path, and everybody else as if there were none.

    Args:
        login: whether people log in to see them, hence may want to log out.
    """

    @web.middleware
    async def choose(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        page = next((name for pattern, name in _PAGES if pattern.fullmatch(path)), None)
        if page is None or request.method not in {"GET", "HEAD"}:
            return await handler(request)
        if prefers_html(request):
            return await send_asset(request, page, login=login)
        answer = await handler(request)
        answer.headers["Vary"] = "Accept"
        return answer

    return choose


def page_views(*, login: bool) -> dict[str, type[View]]:
    """Return the views of pages that are nothing else, by path."""

    class Dashboard(View):
        """The cluster."""

        async def get(self, request: Request, **_: Any) -> Response:
            return cast(Response, await send_asset(cast(web.Request, request), "dashboard.html", login=login))

    class Slashless(View):
        """What people type."""

        async def get(self, request: Request, **_: Any) -> Response:
            return cast(Response, web.Response(status=308, headers={"Location": "/feedback/"}))

    class Static(View):
        """Scripts, styles and the chart library."""

        async def get(self, request: Request, name: str, **_: Any) -> Response:
            return cast(Response, await send_asset(cast(web.Request, request), name))

    return {"/feedback": Slashless, "/feedback/": Dashboard, "/feedback/static/{name}": Static}
