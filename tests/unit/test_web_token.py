"""With a token every page but health asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from feedback_app.settings import load_settings
from feedback_app.web.sessions import sessions_of
from feedback_app.web.token import token_guard

Client = TestClient[web.Request, web.Application]

TOKEN = "s3cret-tökén"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=f"page {request.path}")


@pytest_asyncio.fixture
async def client_with() -> AsyncIterator[Callable[[str | None], Awaitable[Client]]]:
    """Start a server that has a page under every path, guarded by a token, or by none."""
    clients: list[Client] = []

    async def start(token: str | None) -> Client:
        sessions = sessions_of(load_settings(_env_file=None, web_token=token))
        guards: Any = token_guard(sessions)  # handed on by Faust, untyped
        app = web.Application(middlewares=guards)
        app.router.add_route("*", "/{tail:.*}", _page)
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return client

    yield start
    for client in clients:
        await client.close()


@pytest_asyncio.fixture
async def client(client_with: Callable[[str | None], Awaitable[Client]]) -> Client:
    return await client_with(TOKEN)


@pytest.mark.parametrize("path", ["/", "/feedback/", "/feedback/agents/ann", "/feedback/partitions", "/metrics"])
async def test_a_page_is_shown_to_who_has_the_token(client: Client, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "page" not in await answer.text()
    async with client.get(path, headers=RIGHT) as answer:
        assert (answer.status, await answer.text()) == (200, f"page {path}")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_every_method_is_guarded(client: Client, method: str) -> None:
    async with client.request(method, "/feedback/events") as answer:
        assert answer.status == 401
    async with client.request(method, "/feedback/events", headers=RIGHT) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.parametrize("headers", [{}, RIGHT, {"Authorization": "Bearer wrong"}])
async def test_health_is_open_to_all(client: Client, path: str, headers: dict[str, str]) -> None:
    async with client.get(path, headers=headers) as answer:
        assert (answer.status, await answer.text()) == (200, f"page {path}")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer  {TOKEN}",
        "Bearer None",
    ],
)
async def test_any_other_authorization_is_refused(client: Client, given: str) -> None:
    async with client.get("/metrics", headers={"Authorization": given}) as answer:
        assert answer.status == 401
        assert TOKEN not in await answer.text()


async def test_an_authorization_that_is_no_text_is_refused(client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer \xff\x80\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/healthy/live",
        "/HEALTH/live",
        "//health/live",
        "/feedback/health/live",
        "/feedback/?next=/health/",
        "/feedback/#/health/live",
    ],
)
async def test_only_health_itself_is_open(client: Client, path: str) -> None:
    url = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
    async with client.session.get(url) as answer:
        assert answer.status == 401


async def test_without_a_token_everything_is_open(client_with: Callable[[str | None], Awaitable[Client]]) -> None:
    client = await client_with(None)
    async with client.get("/feedback/") as answer:
        assert (answer.status, await answer.text()) == (200, "page /feedback/")
