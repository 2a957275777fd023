"""The pages of an application that is not started: what needs no partition can be asked without a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from feedback_app.factory import FeedbackApp

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def served(app: FeedbackApp) -> AsyncIterator[Client]:
    """Give a client of the application's pages, which keeps cookies as a browser does."""
    driver: Any = app.web  # aiohttp's, whatever Faust declares
    driver.init_server()
    async with TestClient(TestServer(driver.web_app)) as client:
        try:
            yield client
        finally:
            await app._maybe_close_http_client()
            await app.ingest.close()
            await app.sink.close()
