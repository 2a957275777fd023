"""The files behind the pages: our own, and the chart library out of the package that ships it.

Nothing of what users wrote is in them: scripts fetch that as JSON, and show it as text.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import ETag, web

from feedback_app.web.accepting import takes_gzip

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
#: Chart.js, with what it needs for an axis of times. The package is read, never run: it is made for Django and Flask.
_CHARTS: Final = "charts.bundle.js"
_CHARTS_IN: Final = ("chartkick", "django/static/chartkick/Chart.bundle.js")

#: Whatever got into a page all the same could load nothing, run nothing and send nothing anywhere else.
_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    # An address may be an agent's name. With no referrer at all, browsers would not name the origin of a form.
    "Referrer-Policy": "same-origin",
}

#: Pages offer it where there is a login.
_LOGOUT: Final = (b' action="/feedback/logout" hidden>', b' action="/feedback/logout">')


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    packed: bytes
    content_type: str
    version: str


#: Those that were asked for, by name and whether there is a login: as many as there are files, at most twice.
_LOADED: Final[dict[tuple[str, bool], Asset]] = {}


async def send_asset(request: web.Request, name: str, *, login: bool = False) -> web.Response:
    """Answer with a file.

    Browsers keep it and ask each time whether it has changed, so that after an upgrade no page runs old scripts.

    Args:
        login: whether those who are here have logged in.

    Raises:
        web.HTTPNotFound: there is no such file.
    """
    if name not in _names():
        raise web.HTTPNotFound
    asset = _LOADED.get((name, login))
    if asset is None:
        # In a thread: compressing the chart library takes longer than a batch may wait.
        asset = _LOADED[name, login] = await asyncio.to_thread(_load, name, login)
    tag = ETag(asset.version, is_weak=True)  # the same for both encodings
    headers = {"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding", **_SECURITY}
    if any(known.value == asset.version for known in request.if_none_match or ()):
        answer = web.Response(status=304, headers=headers)
    elif takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        answer = web.Response(body=asset.packed, content_type=asset.content_type, charset="utf-8", headers=headers)
    else:
        answer = web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers)
    answer.etag = tag
    return answer


@cache
def _names() -> dict[str, tuple[str, str]]:
    """Return which files there are: the package of each, and its path there. No other is ever opened."""
    ours = {file.name: (__package__, f"static/{file.name}") for file in (files(__package__) / "static").iterdir()}
    return ours | {_CHARTS: _CHARTS_IN}


def _load(name: str, login: bool) -> Asset:
    package, path = _names()[name]
    body = (files(package) / path).read_bytes()
    if name.endswith(".html"):
        body = _framed(body)
    if login:
        body = body.replace(*_LOGOUT)
    packed = gzip.compress(body, mtime=0)
    return Asset(body, packed, _TYPES[f".{name.rpartition('.')[2]}"], hashlib.sha256(body).hexdigest()[:16])


def _framed(page: bytes) -> bytes:
    """Return what a page has of its own, its title and scripts and then what it shows, within what all pages have."""
    head, tag, main = page.partition(b"<main")
    frame = (files(__package__) / "frame.html").read_bytes()
    return frame.replace(b"<!-- head -->", head.strip()).replace(b"<!-- main -->", (tag + main).strip())
