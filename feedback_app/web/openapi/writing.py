"""How an operation of the API's document is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

JSON: Final = "application/json"
HTML: Final = "text/html"
FORM: Final = "application/x-www-form-urlencoded"

Part = dict[str, Any]

_RETRY_AFTER: Final = {"Retry-After": {"description": "seconds to wait for", "schema": {"type": "integer"}}}
#: Where an answer may say when to try again.
_LATER: Final = {"429", "503"}


def schema(*bodies: type) -> Part:
    """Return the schema of a body that is one of these types."""
    refs = [{"$ref": f"#/components/schemas/{body.__name__}"} for body in bodies]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def answer(description: str, *bodies: type, **content: Part) -> Part:
    """Return an answer: JSON of one of these types, or what *content* says."""
    written: Part = {"description": description}
    if bodies:
        written["content"] = {JSON: {"schema": schema(*bodies)}}
    return written | content


def page(description: str) -> Part:
    """Return an answer that is made for people."""
    return {"description": description, "content": {HTML: {"schema": {"type": "string"}}}}


def both(one: Part, other: Part) -> Part:
    """Return an answer that is one or the other, by what the request accepts."""
    return one | {"content": {**one["content"], **other["content"]}}


def query(name: str, description: str, **of: Any) -> Part:
    """Return a parameter of the query, with the schema *of*."""
    return {"name": name, "in": "query", "description": description, "schema": of}


def path(name: str, description: str, **of: Any) -> Part:
    """Return a parameter that is a segment of the path, with the schema *of*."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": of}


def operation(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Part],
    *,
    parameters: Sequence[Part] = (),
    body: Part | None = None,
    security: Iterable[str] | None = None,
) -> Part:
    """Return an operation.

    Args:
        name: what clients made from the document may call it.
        security: what it takes, if that is not what most do; nothing for one that everybody may ask.
    """
    written: Part = {"operationId": name, "tags": [tag], "summary": summary}
    if parameters:
        written["parameters"] = list(parameters)
    if body is not None:
        written["requestBody"] = {"required": True, "content": body}
    if security is not None:
        written["security"] = [{scheme: []} for scheme in security]
    written["responses"] = {str(status): _with_headers(str(status), said) for status, said in sorted(answers.items())}
    return written


def _with_headers(status: str, said: Part) -> Part:
    return said | {"headers": _RETRY_AFTER} if status in _LATER else said
