"""The document as a whole, and the page that shows it."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, Final

import orjson
from faust.web import Request, Response, View
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from feedback_app import __version__
from feedback_app.web.openapi.operations import BODIES, paths
from feedback_app.web.openapi.writing import JSON, Part
from feedback_app.web.sessions import COOKIE

_DESCRIPTION: Final = (
    "Ratings of chat agents, counted per agent and window. Any worker answers for the whole cluster. Errors are "
    '`{"error": "..."}`; a wrong path is 404, a wrong method 405.'
)
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "FEEDBACK_WEB_TOKEN; for programs"},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "what a login gives; for browsers. What changes something must come from a page of this origin",
    },
}


class _WithoutTitles(GenerateJsonSchema):
    """The titles would be the names, capitalised."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def api_document(*, secured: bool) -> Part:
    """Return the OpenAPI document.

    Args:
        secured: whether a token is asked for.
    """
    _, schemas = TypeAdapter.json_schemas(
        [(body.__name__, "validation", TypeAdapter(body)) for body in BODIES],
        ref_template="#/components/schemas/{model}",
        schema_generator=_WithoutTitles,
    )
    components: Part = {"schemas": schemas["$defs"]}
    document: Part = {
        "openapi": "3.1.0",
        "info": {"title": "Feedback aggregation", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths(secured=secured),
        "components": components,
    }
    if secured:
        components["securitySchemes"] = _SCHEMES
        document["security"] = [{scheme: []} for scheme in _SCHEMES]
    else:
        _leave_out_security(document)
    return document


def api_views(*, secured: bool) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Api(View):
        """The document."""

        async def get(self, request: Request, **_: Any) -> Response:
            return self.bytes(await asyncio.to_thread(_encoded, secured=secured), content_type=JSON)

    return {"/feedback/openapi.json": Api}


@cache
def _encoded(*, secured: bool) -> bytes:
    """Made when it is first asked for, in a thread: it takes some 50 ms."""
    return orjson.dumps(api_document(secured=secured))


def _leave_out_security(document: Part) -> None:
    """Drop what asks for a token where there is none."""
    for methods in document["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
            operation["responses"].pop("403", None)
