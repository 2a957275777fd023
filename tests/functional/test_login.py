"""A browser logs in once and then sees every page, of every worker; nobody else gets anything by its cookie."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from feedback_app.application import FeedbackApp
from feedback_app.core.clock import ManualClock
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.factory import create_app
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web.sessions import COOKIE, SESSION_S, sessions_of

MakeSettings = Callable[..., Settings]
Client = TestClient[web.Request, web.Application]
Serve = Callable[[FeedbackApp], Awaitable[Client]]

_TOKEN = "open-sesame &<é>"
_HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
_EVENT = {"feedbackId": "f", "agentId": "a", "userId": "u", "rating": "positive", "timestamp": 1_790_000_000_000}


@pytest_asyncio.fixture
async def client(offline: MakeSettings, serve: Serve) -> Client:
    return await serve(create_app(offline(web_token=_TOKEN)))


async def log_in(client: Client, token: str = _TOKEN, **headers: str) -> ClientResponse:
    answer = await client.post("/feedback/login", json={"token": token}, headers=headers)
    await answer.read()
    return answer


def session_of(answer: ClientResponse) -> dict[str, Any]:
    """Return what an answer's cookie holds, by attribute, with its value."""
    morsel = answer.cookies[COOKIE]
    return {"value": morsel.value, **{name: value for name, value in morsel.items() if value}}


# -- logging in ------------------------------------------------------------------------------------------------------


async def test_a_browser_without_login_gets_the_login_page_in_place_of_the_page(client: Client) -> None:
    async with client.get("/feedback/partitions?a=1&b=%22", headers=_HTML) as answer:
        assert (answer.status, answer.content_type) == (401, "text/html")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        page = await answer.text()
    assert '<input type="hidden" name="next" value="/feedback/partitions?a=1&amp;b=%22">' in page
    assert '<label for="token">' in page


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/feedback/partitions", "*/*"),
        ("GET", "/feedback/partitions", "text/event-stream"),
        ("GET", "/metrics", "text/html"),
        ("GET", "/", "text/html"),
        ("POST", "/feedback/events", "text/html"),
    ],
)
async def test_what_a_login_would_not_help_is_answered_as_json(
    client: Client, method: str, path: str, accept: str
) -> None:
    async with client.request(method, path, headers={"Accept": accept}) as answer:
        assert (answer.status, await answer.json()) == (401, {"error": "a bearer token is needed"})


async def test_the_login_page_runs_no_script_and_loads_nothing(client: Client) -> None:
    async with client.get("/feedback/login?next=%2Ffeedback%2F%22%3E%3Cscript%3E", headers=_HTML) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        page = await answer.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in page
    assert 'name="next" value="/feedback/"' in page
    assert "http" not in page.replace("<!DOCTYPE html>", "")
    assert "color-scheme: light dark" in page


async def test_a_form_logs_in_and_leads_to_the_page_that_was_wanted(client: Client) -> None:
    form = {"token": _TOKEN, "next": "/feedback/agents/a%2Fb?limit=1"}
    async with client.post("/feedback/login", data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/feedback/agents/a%2Fb?limit=1")
        assert session_of(answer)["path"] == "/feedback"
    async with client.get("/feedback/partitions", headers=_HTML) as answer:
        assert answer.status == 200
    async with client.get("/metrics") as answer:
        assert answer.status == 401, "the cookie is for the pages below /feedback/"


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/feedback/", "/feedback/\\evil", ""])
async def test_a_form_leads_to_no_other_place(client: Client, wanted: str) -> None:
    form = {"token": _TOKEN, "next": wanted}
    async with client.post("/feedback/login", data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/feedback/")


async def test_a_program_logs_in_with_json(client: Client) -> None:
    answer = await log_in(client)
    assert (answer.status, await answer.read()) == (204, b"")
    cookie = session_of(answer)
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/feedback"
    assert cookie["max-age"] == str(SESSION_S)
    assert "secure" not in cookie
    assert "domain" not in cookie
    assert _TOKEN not in cookie["value"]
    async with client.get("/feedback/partitions") as page:
        assert page.status == 200


async def test_the_cookie_is_secure_where_the_browser_speaks_tls(client: Client) -> None:
    host = f"{client.host}:{client.port}"
    answer = await log_in(client, Origin=f"https://{host}")
    assert session_of(answer)["secure"] is True
    answer = await log_in(client, Origin=f"http://{host}", **{"X-Forwarded-Proto": "https"})
    assert "secure" not in session_of(answer)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"token": 7}', "application/json", 400),
        (b'{"token": "\\ud800"}', "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"tok=x", "application/x-www-form-urlencoded", 400),
        (b"token=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"&".join([b"token=x"] * 20), "application/x-www-form-urlencoded", 400),
        (b"token=x", "text/plain", 415),
        (b"token=", "application/x-www-form-urlencoded", 401),
    ],
)
async def test_what_is_no_login_is_refused(client: Client, body: bytes, content_type: str, status: int) -> None:
    async with client.post("/feedback/login", data=body, headers={"Content-Type": content_type}) as answer:
        assert answer.status == status
        assert COOKIE not in answer.cookies


async def test_a_wrong_token_is_told_and_quoted_nowhere(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "<b>wrong</b>"
    answer = await log_in(client, wrong)
    assert (answer.status, await answer.json()) == (401, {"error": "this is not the token"})
    form = {"token": wrong, "next": "/feedback/partitions"}
    async with client.post("/feedback/login", data=form) as told:
        assert (told.status, told.content_type) == (401, "text/html")
        page = await told.text()
    assert '<p role="alert" id="problem">This is not the token.</p>' in page
    assert 'name="next" value="/feedback/partitions"' in page
    assert wrong not in page
    assert caplog.text.count("a login from 127.0.0.1 with a wrong token") == 1
    assert wrong not in caplog.text
    async with client.get("/feedback/partitions") as page_of_nobody:
        assert page_of_nobody.status == 401


async def test_wrong_logins_are_bounded_and_disturb_nobody_who_is_in(client: Client) -> None:
    await log_in(client)
    statuses = [(await log_in(client, f"guess-{number}")).status for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    answer = await log_in(client)
    assert answer.status == 429, "the right token would be told by its answer"
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    async with client.post("/feedback/login", data={"token": _TOKEN}) as told:
        assert (told.status, told.content_type) == (429, "text/html")
    async with client.get("/feedback/partitions") as page:
        assert page.status == 200
    client.session.cookie_jar.clear()
    async with client.get("/feedback/partitions", headers={"Authorization": f"Bearer {_TOKEN}"}) as page:
        assert page.status == 200


async def test_a_session_ends_by_itself(offline: MakeSettings, serve: Serve) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    client = await serve(create_app(offline(web_token=_TOKEN), clock=clock))
    value = session_of(await log_in(client))["value"]
    for ahead_ms, status in ((0, 200), (SESSION_S * 1_000 - 1_000, 200), (1_000, 401)):
        clock.advance(ahead_ms)
        async with client.get("/feedback/partitions", headers={"Cookie": f"{COOKIE}={value}"}) as answer:
            assert answer.status == status


async def test_another_token_ends_all_sessions(client: Client, offline: MakeSettings, serve: Serve) -> None:
    value = session_of(await log_in(client))["value"]
    changed = await serve(create_app(offline(web_token="another")))
    async with changed.get("/feedback/partitions", headers={"Cookie": f"{COOKIE}={value}"}) as answer:
        assert answer.status == 401


async def test_a_logout_takes_the_cookie_away(client: Client) -> None:
    await log_in(client)
    async with client.post("/feedback/logout") as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    async with client.get("/feedback/partitions") as answer:
        assert answer.status == 401
    async with client.post("/feedback/logout", headers=_HTML, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/feedback/login")
    async with client.get("/feedback/logout") as answer:
        assert answer.status == 405


async def test_without_a_token_there_is_no_login(offline: MakeSettings, serve: Serve) -> None:
    client = await serve(create_app(offline()))
    for path in ("/feedback/login", "/feedback/logout"):
        async with client.post(path, json={"token": "x"}) as answer:
            assert answer.status == 404
    async with client.get("/feedback/partitions", headers=_HTML) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")


# -- other sites -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another service of this machine: SameSite takes it for the same site
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_cookie_alone_sends_no_events(client: Client, headers: dict[str, str]) -> None:
    await log_in(client)
    async with client.post("/feedback/events", json=_EVENT, headers=headers) as answer:
        assert answer.status == 403
        assert "bearer token" in (await answer.json())["error"]


async def test_a_page_of_another_site_logs_nobody_in_or_out(client: Client) -> None:
    elsewhere = {"Origin": "https://evil.example"}
    assert (await log_in(client, **elsewhere)).status == 403
    async with client.post("/feedback/logout", headers=elsewhere) as answer:
        assert answer.status == 403
        assert COOKIE not in answer.cookies


# -- several workers -------------------------------------------------------------------------------------------------


def ask(worker: WorkerProcess, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, str]:
    """Return status, JSON and cookie of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=20)
    data = None if body is None else body if isinstance(body, str) else json.dumps(body)
    given: Mapping[str, str] = ({"Content-Type": "application/json"} if data else {}) | headers
    try:
        connection.request(method, path, data, given)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, answer.headers.get("Set-Cookie", "")
    finally:
        connection.close()


def test_a_session_is_good_for_all_workers_and_for_what_they_ask_of_each_other(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path
) -> None:
    quiet = {"partitions": 3, "batch_time_ms": 3_600_000, "idle_ms": 3_600_000, "store_items": False}
    first, second = (settings(embedded_broker, web_token="open-sesame", **quiet) for _ in range(2))
    ensure_topics(first, Topics.of(first).specs())
    with (
        WorkerProcess(first, tmp_path / "first.log") as one,
        WorkerProcess(second, tmp_path / "second.log") as other,
    ):
        for worker in (one, other):
            worker.wait_until_ready()
        status, _, cookie = ask(one, "POST", "/feedback/login", {"token": "open-sesame"})
        assert status == 204
        kept = cookie.partition(";")[0]
        for worker in (one, other):
            deadline = time.monotonic() + 60
            while True:  # until the group has settled
                status, body, _ = ask(worker, "GET", "/feedback/partitions", Cookie=f"theirs=secret; {kept}")
                assert status == 200
                rows = body["partitions"]
                if not body["unanswered"] and {row["state"] for row in rows} == {"ready"}:
                    break
                assert time.monotonic() < deadline, body
                time.sleep(0.05)
            assert {row["owner"] for row in rows} == {one.url, other.url}, "nobody else was asked"
            for number in range(9):
                status, body, _ = ask(worker, "GET", f"/feedback/agents/agent-{number}", Cookie=kept)
                assert (status, body["agentId"]) == (200, f"agent-{number}")
        own_page = {"Cookie": kept, "Origin": one.url}
        event = _EVENT | {"timestamp": time.time_ns() // 1_000_000}
        assert ask(one, "POST", "/feedback/events", event, **own_page)[:2] == (202, {"accepted": 1, "rejected": []})
        form = urlencode({"token": "open-sesame"})
        status, _, cookie = ask(
            other, "POST", "/feedback/login", form, **{"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (status, cookie.partition("=")[0]) == (303, COOKIE)
        logs = one.log.read_text() + other.log.read_text()
    assert "open-sesame" not in logs
    assert kept.partition("=")[2] not in logs


async def test_no_other_cookie_of_the_browser_is_passed_on(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    other = await asyncio.start_server(lambda reader, writer: _listen(reader, writer, heard), "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    app = create_app(offline(web_token=_TOKEN))
    metadata = {f"http://127.0.0.1:{port}": {app.windows.changelog: list(range(8))}}
    monkeypatch.setattr(app.assignor, "tables_metadata", lambda: metadata)
    client = await serve(app)
    value = session_of(await log_in(client))["value"]
    client.session.cookie_jar.clear()
    headers = {"Cookie": f"theirs=secret; {COOKIE}={value}; more=secret"}
    async with other, client.get("/feedback/agents/agent-1", headers=headers) as answer:
        assert answer.status == 200
    (request,) = heard
    (passed_on,) = re.findall(r"^Cookie: (.*)\r$", request, re.MULTILINE)
    name, _, session = passed_on.partition("=")
    assert name == COOKIE
    sessions = sessions_of(app.settings)
    assert sessions is not None
    assert sessions.is_open(session)
    assert "secret" not in request
    assert "Authorization" not in request


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: list[str]) -> None:
    heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )
    await writer.drain()
    writer.close()
