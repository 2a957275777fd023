"""A session tells nobody the token, ends by itself, and is known wherever the token is."""

from __future__ import annotations

import base64

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from feedback_app.core.clock import ManualClock
from feedback_app.settings import load_settings
from feedback_app.web.accepting import prefers_html
from feedback_app.web.attempts import Attempts
from feedback_app.web.login_page import HOME, local_path
from feedback_app.web.origin import came_by_tls, is_of_this_origin
from feedback_app.web.sessions import COOKIE, SESSION_S, Sessions, let_in, sessions_of, vouched

_TOKEN = "s3cret-tökén"
_NOW_MS = 1_800_000_000_000


def sessions(token: str = _TOKEN, now_ms: int = _NOW_MS) -> Sessions:
    return Sessions(SecretStr(token), ManualClock(now_ms))


# -- sessions --------------------------------------------------------------------------------------------------------


def test_every_worker_with_the_token_knows_a_session() -> None:
    value = sessions().begin()
    assert sessions().is_open(value)
    assert not sessions("another").is_open(value)


def test_a_session_ends() -> None:
    clock = ManualClock(_NOW_MS)
    ours = Sessions(SecretStr(_TOKEN), clock)
    value = ours.begin()
    clock.advance(SESSION_S * 1_000 - 1)
    assert ours.is_open(value)
    clock.advance(1)
    assert not ours.is_open(value)


def test_nobody_can_prolong_or_make_a_session() -> None:
    ends, _, signature = sessions().begin().partition(".")
    later = str(int(ends) + 1)
    assert sessions().is_open(f"{ends}.{signature}")
    for value in (
        f"{later}.{signature}",
        f"0{ends}.{signature}",
        f"{ends}.",
        f"{ends}.{signature[:-1]}",
        f"{ends}.{signature}=",
        f"{ends}.{'A' * 43}=",
        f"{ends}.{signature}\n",
        f" {ends}.{signature}",
        "",
        ".",
        _TOKEN,
        "٣" * 10 + f".{signature}",
    ):
        assert not sessions().is_open(value), value


def test_a_session_does_not_hold_the_token() -> None:
    value = sessions().begin()
    raw = base64.urlsafe_b64decode(value.partition(".")[2])
    assert len(raw) == 32
    for hidden in (_TOKEN, base64.urlsafe_b64encode(_TOKEN.encode()).decode()[:-2], _TOKEN.encode().hex()):
        assert hidden not in value
    assert _TOKEN.encode() not in raw


def test_only_the_token_is_the_token() -> None:
    assert sessions().is_token(_TOKEN)
    for other in ("", _TOKEN[:-1], _TOKEN + "x", _TOKEN.upper(), f" {_TOKEN}", "\udcff"):
        assert not sessions().is_token(other)


def test_without_a_token_there_are_no_sessions() -> None:
    assert sessions_of(load_settings(_env_file=None)) is None


def test_other_workers_are_asked_with_a_session_of_our_own() -> None:
    """A stream may outlive the session that it was begun with."""
    clock = ManualClock(_NOW_MS)
    ours = Sessions(SecretStr(_TOKEN), clock)
    value = ours.begin()
    request = make_mocked_request("GET", "/", {"Cookie": f"theirs=secret; {COOKIE}={value}"})
    assert vouched(request) == {}
    assert let_in(request, ours)
    for ahead_s in (1, SESSION_S):
        clock.advance(ahead_s * 1_000)
        ((name, cookie),) = vouched(request).items()
        assert name == "Cookie"
        assert cookie.startswith(f"{COOKIE}=")
        ours_now = cookie.removeprefix(f"{COOKIE}=")
        assert ours.is_open(ours_now)
        assert ours_now != value
    clock.advance(SESSION_S * 1_000)
    assert not ours.is_open(ours_now)


@pytest.mark.parametrize("cookies", ["", f"{COOKIE}={_TOKEN}", f"{COOKIE}=1.x", "theirs=secret"])
def test_nobody_is_vouched_for_without_a_session(cookies: str) -> None:
    request = make_mocked_request("GET", "/", {"Cookie": cookies})
    assert not let_in(request, sessions())
    assert vouched(request) == {}


# -- where a request comes from --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, None),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://worker:6066"}, False),
        ({"Origin": "http://worker:6066"}, True),
        ({"Origin": "HTTP://WORKER:6066"}, True),
        ({"Origin": "http://worker:6067"}, False),
        ({"Origin": "http://worker"}, False),
        ({"Origin": "http://evil.example:6066"}, False),
        ({"Origin": "http://worker:6066.evil.example"}, False),
        ({"Origin": "http://worker:6066@evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "file://"}, False),
        ({"Host": "feedback.example", "Origin": "https://feedback.example"}, True),  # a proxy has taken TLS off
        ({"Host": "feedback.example:443", "Origin": "https://feedback.example"}, True),
        ({"Host": "feedback.example", "Origin": "https://feedback.example:8443"}, False),
        ({"Host": "[::1]:6066", "Origin": "http://[::1]:6066"}, True),
    ],
)
def test_the_browser_tells_where_a_request_comes_from(headers: dict[str, str], same: bool | None) -> None:
    assert is_of_this_origin(make_mocked_request("POST", "/", {"Host": "worker:6066"} | headers)) is same


def test_no_proxy_s_header_tells_of_tls() -> None:
    for headers, tls in (
        ({"Origin": "https://worker"}, True),
        ({"Origin": "http://worker"}, False),
        ({"X-Forwarded-Proto": "https", "Forwarded": "proto=https"}, False),
        ({"Origin": "null"}, False),
    ):
        assert came_by_tls(make_mocked_request("POST", "/", headers)) is tls


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json;q=0.5, Text/HTML", True),
        ("application/json, text/html;q=0.5", False),
        ("*/*", False),
        ("text/event-stream", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_only_who_prefers_html_gets_a_page(accept: str, html: bool) -> None:
    assert prefers_html(make_mocked_request("GET", "/", {"Accept": accept})) is html


@pytest.mark.parametrize(
    "wanted",
    ["/feedback/", "/feedback/agents/a%2Fb?limit=5&before=x", "/feedback/dead-letters?error=a:b", "/feedback/#top"],
)
def test_a_login_leads_to_the_page_that_was_wanted(wanted: str) -> None:
    assert local_path(wanted) == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "/",
        "/feedback",
        "/metrics",
        "//evil.example/feedback/",
        "///evil.example",
        "/\\evil.example",
        "/feedback/\\..\\..\\x",
        "/feedback/../metrics",
        "/feedback/agents/%2e%2E",
        "/feedback/.%2e/metrics",
        "/feedback/..?x",
        "https://evil.example/feedback/",
        "http:/feedback/",
        "javascript:alert(1)//feedback/",
        " /feedback/",
        "/feedback/\r\nSet-Cookie: x=y",
        "/feedback/\t",
        '/feedback/"><script>alert(1)</script>',
        "/feedback/é",
        "/feedback/" + "a" * 2_001,
        "/feedback/login",
        "/feedback/logout?x",
    ],
)
def test_a_login_leads_nowhere_else(wanted: str) -> None:
    assert local_path(wanted) == HOME


# -- attempts --------------------------------------------------------------------------------------------------------


def test_attempts_run_out_and_come_back_one_by_one() -> None:
    now = 0.0
    attempts = Attempts(3, 10.0, now_s=lambda: now)
    for _ in range(3):
        assert attempts.wait_s() == 0
        attempts.take()
    assert attempts.wait_s() == 10.0
    now = 9.0
    assert attempts.wait_s() == 1.0
    now = 10.0
    assert attempts.wait_s() == 0
    attempts.take()
    assert attempts.wait_s() == 10.0
    now = 1_000.0
    for _ in range(3):
        assert attempts.wait_s() == 0
        attempts.take()
    assert attempts.wait_s() == 10.0
