"""The API's document is one, and says what each path takes."""

from __future__ import annotations

import json
import re

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import to_json, window_document
from feedback_app.core.windows import Window
from feedback_app.models import FeedbackEvent
from feedback_app.web.openapi.document import api_document
from tests.services.api import ApiDocument


@pytest.mark.parametrize("secured", [True, False])
def test_it_is_an_openapi_document(secured: bool) -> None:
    document = api_document(secured=secured)
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1.")
    unused = {name for name in document["components"]["schemas"] if f"/{name}'" not in str(document)}
    assert unused == (set() if secured else {"Login"})


def test_every_path_wants_a_login_but_for_health_and_the_login_itself() -> None:
    for method, path, operation in ApiDocument().operations():
        is_open = path.startswith("/health/") or path in {"/feedback/login", "/feedback/logout"}
        assert (operation.get("security") == []) is is_open, (method, path)
        assert "500" in operation["responses"], (method, path)
        if not is_open:
            assert "401" in operation["responses"], (method, path)


def test_without_a_token_there_is_nothing_about_one() -> None:
    document = api_document(secured=False)
    assert "security" not in document
    assert "/feedback/login" not in document["paths"]
    assert "401" not in str(document["paths"])


def test_what_stands_in_a_path_is_a_parameter() -> None:
    for method, path, operation in ApiDocument().operations():
        named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_a_document_of_a_window_fits_and_one_with_another_field_does_not() -> None:
    """Else the functional tests would show nothing."""
    api = ApiDocument()
    window = {"$ref": "#/components/schemas/OpenWindow"}
    document = json.loads(to_json(window_document(Window("ann", 0, 60_000), Aggregate())))
    api.validate(window, document)
    for wrong in ({"more": 1}, {"windowStart": "yesterday"}, {"count": -1}, {"count": "1"}):
        with pytest.raises(AssertionError, match=next(iter(wrong))):
            api.validate(window, document | wrong)
    del document["count"]
    with pytest.raises(AssertionError, match="count"):
        api.validate(window, document)


def test_the_fields_of_an_event_are_those_that_are_read() -> None:
    schema = api_document(secured=True)["components"]["schemas"]["FeedbackEvent"]
    assert schema["properties"].keys() == FeedbackEvent.__annotations__.keys()
    assert schema["required"] == ["feedbackId", "agentId", "userId", "rating", "timestamp"]
