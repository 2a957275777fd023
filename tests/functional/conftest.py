"""Pages of an application that is never started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from feedback_app.application import FeedbackApp
from feedback_app.settings import Settings

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def offline(settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Return ``offline(**overrides)``: settings for an application that is never started."""
    return lambda **overrides: settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1", **overrides)


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[FeedbackApp | web.Application], Any]]:
    """Return ``await serve(app)``: a client of its pages."""
    clients: list[Client] = []
    apps: list[FeedbackApp] = []

    async def start(app: Any) -> Client:
        if isinstance(app, FeedbackApp):
            apps.append(app)
            driver: Any = app.web  # aiohttp's, whatever Faust declares
            driver.init_server()
            app = driver.web_app
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for app in apps:
        app.watching.close()
        app.letters.close()
        await app._maybe_close_http_client()
        await app.sink.close()
