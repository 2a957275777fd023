"""Where a request comes from, as browsers tell it.

``Sec-Fetch-Site`` and ``Origin`` can't be set by a page. What a proxy adds (``X-Forwarded-Proto`` and so on) is not
looked at: anybody can send that, and what it would tell the browser's ``Origin`` tells.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from yarl import URL

_SAME: Final = "same-origin"


def is_of_this_origin(request: web.BaseRequest) -> bool | None:
    """Say whether a page of this very host and port has sent *request*; None when nothing tells, as with programs."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site == _SAME
    if "Origin" not in request.headers:
        return None
    origin = _origin(request.headers["Origin"])
    return origin is not None and origin == _origin(f"{origin[0]}://{request.host}")


def came_by_tls(request: web.BaseRequest) -> bool:
    """Say whether *request* has left the browser encrypted, also where a proxy has taken that off since."""
    origin = _origin(request.headers.get("Origin", ""))
    return request.secure or (origin is not None and origin[0] == "https")


def _origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port, the default port filled in; None when *text* is no origin."""
    try:
        url = URL(text)
        if url.scheme not in {"http", "https"} or url.host is None or url.port is None:
            return None
        return url.scheme, url.host.lower(), url.port
    except ValueError:
        return None
