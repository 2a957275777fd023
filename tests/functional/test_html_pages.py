"""Pages and their files as they are sent: who gets HTML, what a browser may do with it, and what it keeps."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import feedback_app.web
from feedback_app.application import FeedbackApp
from feedback_app.factory import create_app
from feedback_app.settings import Settings
from feedback_app.web.accepting import quality

Client = TestClient[web.Request, web.Application]

_BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
_STATIC = Path(feedback_app.web.__file__).parent / "static"
_PAGES = {
    "/feedback/": "dashboard.html",
    "/feedback/agents/agent-1": "agent.html",
    "/feedback/agents/%3Cscript%3Ealert(1)%3C%2Fscript%3E": "agent.html",
    "/feedback/agents/a%2Fb": "agent.html",
    "/feedback/dead-letters": "letters.html",
    "/feedback/dead-letters/0/12": "letter.html",
}
_BOTH = [path for path in _PAGES if path != "/feedback/"]


@asynccontextmanager
async def _served(app: FeedbackApp, **options: Any) -> AsyncIterator[Client]:
    """Give a client of an application that is never started."""
    driver: Any = app.web  # aiohttp's, whatever Faust declares
    driver.init_server()
    async with TestClient(TestServer(driver.web_app), **options) as opened:
        yield opened
    await app._maybe_close_http_client()
    await app.sink.close()


@pytest_asyncio.fixture
async def client(settings: Callable[..., Settings]) -> AsyncIterator[Client]:
    """A client of an application without a login, that decodes nothing by itself."""
    app = create_app(settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1"))
    async with _served(app, auto_decompress=False) as opened:
        yield opened


def _page(name: str) -> bytes:
    """Return a page, out of its own file and the frame's."""
    head, main = (_STATIC / name).read_bytes().split(b"<main ", 1)
    frame = (_STATIC.parent / "frame.html").read_bytes()
    before, between, after = re.split(b"<!-- (?:head|main) -->", frame)
    return before + head.rstrip() + between + b"<main " + main.rstrip() + after


# -- who gets what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", _PAGES)
async def test_a_browser_gets_the_page(client: Client, path: str) -> None:
    async with client.get(path, headers={"Accept": _BROWSER, "Accept-Encoding": "identity"}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert await answer.read() == _page(_PAGES[path])
        assert "Accept" in answer.headers["Vary"]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.9", "text/plain"])
@pytest.mark.parametrize("path", _BOTH)
async def test_a_program_gets_json(client: Client, path: str, accept: str | None) -> None:
    async with client.get(path, headers={"Accept": accept} if accept else {}) as answer:
        assert answer.content_type == "application/json"
        assert answer.headers["Vary"] == "Accept"  # else a cache would give one of them to the other


@pytest.mark.parametrize("path", _PAGES)
async def test_head_says_what_get_would(client: Client, path: str) -> None:
    async with client.head(path, headers={"Accept": _BROWSER}) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (200, "text/html", b"")


async def test_nothing_is_changed_by_way_of_a_page(client: Client) -> None:
    async with client.post("/feedback/agents/agent-1", headers={"Accept": _BROWSER}) as answer:
        assert (answer.status, answer.content_type) == (405, "application/json")


async def test_the_slash_is_found(client: Client) -> None:
    async with client.get("/feedback", headers={"Accept": _BROWSER}) as answer:
        assert (answer.status, answer.url.path) == (200, "/feedback/")


@pytest.mark.parametrize("path", _PAGES)
async def test_whoever_has_logged_in_can_log_out(settings: Callable[..., Settings], path: str) -> None:
    app = create_app(settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1", web_token="open-sesame"))
    allowed = {"Accept": _BROWSER, "Authorization": "Bearer open-sesame"}
    async with _served(app) as client, client.get(path, headers=allowed) as answer:
        assert '<form id="logout" method="post" action="/feedback/logout"><button>' in await answer.text()


@pytest.mark.parametrize(
    ("header", "names", "expected"),
    [
        ("", ("text/html",), 0),
        ("text/html", ("text/html", "*/*"), 1),
        ("TEXT/HTML ; Q=0.5", ("text/html",), 0.5),
        ("text/html;q=0.3, */*", ("text/html", "*/*"), 0.3),
        ("text/html;level=1;q=0.4", ("text/html",), 0.4),
        ("*/*;q=0.1", ("text/html", "text/*", "*/*"), 0.1),
        ("gzip;q=0", ("gzip", "*"), 0),
        ("gzip;q=what", ("gzip",), 0),
        (";;,,q=1;", ("gzip",), 0),
    ],
)
def test_the_most_specific_range_decides(header: str, names: tuple[str, ...], expected: float) -> None:
    assert quality(header, *names) == expected


# -- what a browser may do with it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*_PAGES, "/feedback/static/dashboard.js", "/feedback/static/icon.svg"])
async def test_nothing_but_our_own_files_may_be_loaded_or_run(client: Client, path: str) -> None:
    async with client.get(path, headers={"Accept": _BROWSER}) as answer:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self' data:",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
            "form-action": "'self'",
        }
        assert answer.headers["Referrer-Policy"] == "same-origin"  # an address here may be an agent's name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("page", sorted(path.name for path in _STATIC.glob("*.html")))
async def test_a_page_names_files_that_are_there(client: Client, page: str) -> None:
    async with client.get(f"/feedback/static/{page}", headers={"Accept-Encoding": "identity"}) as answer:
        named = re.findall(r'(?:src|href)="([^"#]+)"', await answer.text())
    assert named
    for path in named:
        assert path.startswith("/feedback/")
        async with client.get(path, headers={"Accept": _BROWSER}) as answer:
            assert answer.status == 200, path


@pytest.mark.parametrize("script", sorted(_STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_script_makes_html_or_code_out_of_text(script: Path) -> None:
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(|createContextual"
    assert not re.findall(dangerous, script.read_text())


# -- the files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["nothing.js", "..%2Fpages.py", "%2E%2E%2Fpages.py", "%2Fetc%2Fpasswd", "dashboard.js%00", "."]
)
async def test_no_other_file_can_be_had(client: Client, path: str) -> None:
    async with client.get(f"/feedback/static/{path}") as answer:
        assert answer.status == 404
        assert answer.content_type == "application/json"


@pytest.mark.parametrize("name", ["dashboard.js", "style.css", "charts.bundle.js"])
async def test_a_file_is_sent_small_and_only_once(client: Client, name: str) -> None:
    path = f"/feedback/static/{name}"
    async with client.get(path, headers={"Accept-Encoding": "identity"}) as plain:
        body = await plain.read()
        assert "Content-Encoding" not in plain.headers
    async with client.get(path, headers={"Accept-Encoding": "gzip, br"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await packed.read()) == body
        assert packed.headers["Cache-Control"] == "no-cache"
        assert "Accept-Encoding" in packed.headers["Vary"]
        tag = packed.headers["ETag"]
        assert tag == plain.headers["ETag"]
    async with client.get(path, headers={"If-None-Match": tag}) as again:
        assert (again.status, await again.read()) == (304, b"")
    async with client.get(path, headers={"If-None-Match": 'W/"another"'}) as changed:
        assert changed.status == 200


async def test_the_chart_library_is_the_package_s(client: Client) -> None:
    async with client.get("/feedback/static/charts.bundle.js", headers={"Accept-Encoding": "gzip"}) as answer:
        packed = await answer.read()
        assert len(packed) < 250_000
        assert b"Chart.js v4" in gzip.decompress(packed)[:100]
