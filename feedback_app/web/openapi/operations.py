"""Every path of the web port, less Faust's own pages."""

from __future__ import annotations

from typing import Any, Final

from feedback_app.models import FeedbackEvent
from feedback_app.web.events import MOST_EVENTS
from feedback_app.web.openapi.basics import (
    Accepted,
    Dead,
    Error,
    Live,
    Login,
    NoneValid,
    Ready,
    Starting,
    Unacknowledged,
)
from feedback_app.web.openapi.cluster import History, Overview, Partitions
from feedback_app.web.openapi.letters import Letter, Letters
from feedback_app.web.openapi.windows import Agent, Agents
from feedback_app.web.openapi.writing import FORM, JSON, Part, answer, both, operation, page, path, query, schema

#: All types that bodies have; what these refer to comes along.
BODIES: Final[tuple[Any, ...]] = (
    *(Accepted, Agent, Agents, Dead, Error, FeedbackEvent, History, Letter, Letters, Live, Login, NoneValid),
    *(Overview, Partitions, Ready, Starting, Unacknowledged),
)

_BAD: Final = answer("a parameter makes no sense", Error)
_BUSY: Final = answer("too much is asked for at once", Error)
_ELSEWHERE: Final = answer("with a cookie, and not sent by a page of this host and port", Error)
_FAILED: Final = {500: answer("an error of ours; the log has it", Error)}
_NOBODY: Final = {401: answer("neither token nor login", Error), **_FAILED}
_NOBODY_ON_A_PAGE: Final = _NOBODY | {401: both(_NOBODY[401], page("the login page"))}

_LIMIT: Final = {"type": "integer", "minimum": 1}


def paths(*, secured: bool) -> Part:
    """Return the operations by path and method.

    Args:
        secured: whether a token is asked for, so that there is a login.
    """
    return {
        **_health(),
        **_cluster(),
        **_agents(),
        **_letters(),
        **_events(),
        **(_login() if secured else {}),
        **_pages(),
    }


def _health() -> Part:
    live = operation(
        "getLive",
        "health",
        "Whether the worker lives",
        {200: answer("it lives", Live), 503: answer("it should be started again", Dead), **_FAILED},
        security=(),
    )
    ready = operation(
        "getReady",
        "health",
        "Whether the worker has its partitions",
        {200: answer("it has", Ready), 503: answer("not yet", Starting), **_FAILED},
        security=(),
    )
    metrics = operation(
        "getMetrics",
        "health",
        "All metrics of this worker, for Prometheus",
        {
            200: {
                "description": "as text, or as OpenMetrics where that is asked for",
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            },
            **_NOBODY,
        },
        security=("bearer",),
    )
    return {"/health/live": {"get": live}, "/health/ready": {"get": ready}, "/metrics": {"get": metrics}}


def _cluster() -> Part:
    stream = {
        "description": "events named `overview`, every two seconds, each with an Overview as its data",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    return {
        "/feedback/partitions": {
            "get": operation(
                "getPartitions",
                "cluster",
                "All partitions, and who owns them",
                {200: answer("as far as workers answered", Partitions), **_NOBODY},
            )
        },
        "/feedback/overview": {
            "get": operation(
                "getOverview",
                "cluster",
                "The cluster now",
                {200: answer("at most a second or so old", Overview), 503: _BUSY, **_NOBODY},
            )
        },
        "/feedback/history": {
            "get": operation(
                "getHistory",
                "cluster",
                "The last hour of the cluster",
                {200: answer("as far as workers remember", History), 503: _BUSY, **_NOBODY},
            )
        },
        "/feedback/stream": {
            "get": operation(
                "watchOverview",
                "cluster",
                "The overview, again and again, as server-sent events",
                {200: stream, 503: answer("too many watch already, or the worker is being stopped", Error), **_NOBODY},
            )
        },
    }


def _agents() -> Part:
    agent = {
        200: both(answer("JSON unless HTML is asked for", Agent), page("the agent's page")),
        400: _BAD,
        502: answer("the agent's worker does not answer", Error),
        503: answer("the agent's partition is changing hands", Error),
        **_NOBODY_ON_A_PAGE,
    }
    agents = {200: answer("a page of them", Agents), 400: _BAD, 503: answer("the database is away", Error), **_NOBODY}
    return {
        "/feedback/agents": {
            "get": operation(
                "listAgents",
                "agents",
                "Agents of the newest closed windows",
                agents,
                parameters=(
                    query("order", "by events, or by the share of negative ones", enum=["volume", "negative"]),
                    query("limit", "how many", **_LIMIT, maximum=100, default=20),
                    query("offset", "how many to leave out", type="integer", minimum=0, maximum=10_000, default=0),
                    query("minEvents", "events that an agent must have", type="integer", minimum=0),
                ),
            )
        },
        "/feedback/agents/{agentId}": {
            "get": operation(
                "getAgent",
                "agents",
                "One agent's open and recent windows",
                agent,
                parameters=(
                    path("agentId", "percent-encoded", type="string", minLength=1, maxLength=128),
                    query("limit", "closed windows, at most", type="integer", minimum=0, maximum=500, default=50),
                    query("before", "closed windows that start before, as `next` had it", type="string"),
                ),
            )
        },
    }


def _letters() -> Part:
    away = answer("the broker is away, or slow", Error)
    letters = {200: both(answer("newest first", Letters), page("the same")), 400: _BAD, 503: away, **_NOBODY_ON_A_PAGE}
    letter = {
        200: both(answer("the letter", Letter), page("the same")),
        400: _BAD,
        404: answer("there is no such letter", Error),
        503: away,
        **_NOBODY_ON_A_PAGE,
    }
    number = {"type": "integer", "minimum": 0}
    return {
        "/feedback/dead-letters": {
            "get": operation(
                "listDeadLetters",
                "dead letters",
                "Dead letters",
                letters,
                parameters=(
                    query("limit", "how many", **_LIMIT, maximum=200, default=50),
                    query("before", "those before, as `next` had it", type="string"),
                    query("error", "those with this error", type="string"),
                ),
            )
        },
        "/feedback/dead-letters/{partition}/{offset}": {
            "get": operation(
                "getDeadLetter",
                "dead letters",
                "One dead letter, whole",
                letter,
                parameters=(path("partition", "its partition", **number), path("offset", "its offset", **number)),
            )
        },
    }


def _events() -> Part:
    event = schema(FeedbackEvent)
    several = {"type": "array", "items": event, "minItems": 1, "maxItems": MOST_EVENTS}
    answers = {
        202: answer("all in-sync replicas have what is accepted", Accepted),
        400: answer("neither an event nor a list of them", Error),
        403: _ELSEWHERE,
        408: answer("the body took too long", Error),
        413: answer("the body is too large", Error),
        415: answer("the body is no JSON, or compressed", Error),
        422: answer("no event is valid", NoneValid),
        429: answer("too much waits for the broker; nothing was sent", Error),
        503: answer("nothing was sent; or some events were not acknowledged", Error, Unacknowledged),
        **_NOBODY,
    }
    return {
        "/feedback/events": {
            "post": operation(
                "sendEvents",
                "events",
                "Send feedback events",
                answers,
                body={JSON: {"schema": {"oneOf": [event, several]}}},
            )
        }
    }


def _login() -> Part:
    cookie = {"Set-Cookie": {"description": "the session", "schema": {"type": "string"}}}
    home = {"Location": {"description": "where to go on", "schema": {"type": "string"}}}
    wrong = both(answer("", Error), page(""))
    log_in = {
        204: {"description": "to JSON", "headers": cookie},
        303: {"description": "to a form", "headers": cookie | home},
        400: answer("no login", Error),
        401: wrong | {"description": "not the token"},
        403: answer("sent by a page of another site", Error),
        408: answer("the body took too long", Error),
        413: answer("the body is too large", Error),
        415: answer("neither a form nor JSON", Error),
        429: wrong | {"description": "too many wrong logins"},
        **_FAILED,
    }
    log_out = {
        204: {"description": "the cookie is taken away", "headers": cookie},
        303: {"description": "the same, where HTML is accepted", "headers": cookie | home},
        403: answer("sent by a page of another site", Error),
        **_FAILED,
    }
    return {
        "/feedback/login": {
            "get": operation(
                "getLoginPage",
                "login",
                "The login page",
                {200: page("the form"), **_FAILED},
                parameters=(query("next", "the path below `/feedback/` to go to", type="string"),),
                security=(),
            ),
            "post": operation(
                "logIn",
                "login",
                "Exchange the token for a cookie",
                log_in,
                body={JSON: {"schema": schema(Login)}, FORM: {"schema": schema(Login)}},
                security=(),
            ),
        },
        "/feedback/logout": {
            "post": operation("logOut", "login", "Make the browser forget its cookie", log_out, security=())
        },
    }


def _pages() -> Part:
    document = {"description": "this document", "content": {JSON: {"schema": {"type": "object"}}}}
    asset = {"description": "the file", "content": {"*/*": {}}}
    unchanged = {"description": "as the browser has it"}
    return {
        "/feedback/openapi.json": {
            "get": operation("getApi", "pages", "What the API is", {200: document, **_NOBODY}),
        },
        "/feedback": {
            "get": operation(
                "getDashboardSlashless",
                "pages",
                "What people type",
                {308: {"description": "to `/feedback/`"}, **_NOBODY_ON_A_PAGE},
            )
        },
        "/feedback/": {
            "get": operation(
                "getDashboard",
                "pages",
                "The dashboard",
                {200: page("the page"), 304: unchanged, **_NOBODY_ON_A_PAGE},
            )
        },
        "/feedback/static/{name}": {
            "get": operation(
                "getAsset",
                "pages",
                "A script, a style, an image of the pages",
                {200: asset, 304: unchanged, 404: answer("there is no such file", Error), **_NOBODY_ON_A_PAGE},
                parameters=(path("name", "of the file", type="string"),),
            )
        },
    }
