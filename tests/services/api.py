"""Holds answers to the document at ``/feedback/openapi.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from jsonschema import Draft202012Validator

from feedback_app.web.openapi.document import api_document


class ApiDocument:
    """The document, read more strictly than a client would: an answer must have no field that it does not name."""

    def __init__(self) -> None:
        self.content = api_document(secured=True)
        self._components = {"components": _strict(deepcopy(self.content["components"]))}

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield method, path and operation."""
        for path, methods in self.content["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def answers(self) -> set[tuple[str, str, int]]:
        """Return every answer that it knows: method, path, status."""
        return {
            (method, path, int(status))
            for method, path, operation in self.operations()
            for status in operation["responses"]
        }

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Make sure that an answer is one of those that the document has for a path."""
        responses = self.content["paths"][path][method.lower()]["responses"]
        assert str(status) in responses, f"{method} {path}: {status} is not documented: {body[:300]!r}"
        answer = responses[str(status)]
        content_type = headers.get("Content-Type", "").partition(";")[0]
        if "content" not in answer:
            assert not body, (path, status, body[:300])
            return
        known = answer["content"]
        assert content_type in known or "*/*" in known, f"{method} {path}: {status} with {content_type}"
        if content_type == "application/json":
            self.validate(known[content_type]["schema"], json.loads(body))

    def validate(self, schema: Mapping[str, Any], value: object) -> None:
        """Make sure that a value fits a schema of the document."""
        assert "date-time" in Draft202012Validator.FORMAT_CHECKER.checkers, "times would not be looked at"
        validator = Draft202012Validator(
            {**schema, **self._components}, format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        problems = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]
        assert problems == [], problems


def _strict(part: Any) -> Any:
    """Allow no other fields than those that are named."""
    if isinstance(part, dict):
        if "properties" in part:
            part["additionalProperties"] = False
        for value in part.values():
            _strict(value)
    elif isinstance(part, list):
        for value in part:
            _strict(value)
    return part
