"""The login page: a form, and nothing that it would need a script for."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from typing import Final

from aiohttp import web

LOGIN: Final = "/feedback/login"
LOGOUT: Final = "/feedback/logout"
HOME: Final = "/feedback/"
#: What a path and a query are made of; neither a backslash, which browsers take for a slash, nor anything to escape.
_NEXT: Final = re.compile(r"/feedback/[!#-;=?-\[\]_a-z~]{0,2000}", re.ASCII)
#: A step up, as browsers read it.
_UP: Final = re.compile(r"/(\.|%2e){1,2}(/|$)", re.IGNORECASE)

_STYLE: Final = """
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText; }
main { box-sizing: border-box; width: min(24rem, 100vw); padding: 1.5rem; }
h1 { font-size: 1.25rem; }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input, button { margin: 0.25rem 0 1rem; padding: 0.6rem; border: 1px solid GrayText; border-radius: 0.3rem; }
button { background: ButtonFace; color: ButtonText; cursor: pointer; }
:focus-visible { outline: 3px solid Highlight; outline-offset: 2px; }
[role=alert] { border-left: 0.3rem solid #c62828; padding-left: 0.7rem; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    # With no referrer at all, browsers would not name the origin of the form.
    "Referrer-Policy": "same-origin",
}


def login_page(
    wanted: str, problem: str = "", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return the page.

    Args:
        wanted: where to go after the login, if :func:`local_path` takes it.
        problem: what was wrong with the last try.
    """
    target = html.escape(local_path(wanted))
    alert = f'<p role="alert" id="problem">{html.escape(problem)}</p>' if problem else ""
    described = ' aria-invalid="true" aria-describedby="problem"' if problem else ""
    again = (
        f'<p>Logged in already, and led here by a link from elsewhere? <a href="{target}">Open the page again</a>.</p>'
        if status == web.HTTPUnauthorized.status_code and not problem
        else ""
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in - feedback</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Feedback: log in</h1>
{alert}
<form method="post" action="{LOGIN}">
<input type="hidden" name="next" value="{target}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus{described}>
<button type="submit">Log in</button>
</form>
{again}
</main>
</body>
</html>
"""
    return web.Response(text=page, content_type="text/html", status=status, headers={**_HEADERS, **(headers or {})})


def local_path(wanted: str) -> str:
    """Return *wanted* if it is a page of ours, as a path with a query; the dashboard otherwise.

    A redirect to it stays below ``/feedback/`` of the host that was asked, whatever a browser makes of it.
    """
    path = wanted.partition("?")[0]
    if not _NEXT.fullmatch(wanted) or _UP.search(path) or path in {LOGIN, LOGOUT}:
        return HOME
    return wanted
