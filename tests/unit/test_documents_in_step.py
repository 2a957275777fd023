"""What is written for people and for containers says what the code does."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from feedback_app.settings import PREFIX, Settings
from feedback_app.topics import Topics

_ROOT = Path(__file__).parents[2]
_OPERATIONS = _ROOT / "docs" / "operations.md"
_VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}


def rows(title: str) -> list[list[str]]:
    """Return the cells of the rows of the first table in a section of docs/operations.md, less the heading."""
    _, _, section = _OPERATIONS.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert section, f"docs/operations.md has no section {title!r}"
    lines = section.partition("\n## ")[0].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    found = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def shown(default: Any) -> str:
    """Return how the table shows a default."""
    if default is None:
        return "none"
    if default == "":
        return "empty"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    elif isinstance(default, Enum):
        default = default.value
    elif isinstance(default, Path):
        default = f"./{default}"
    elif isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`"


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    assert [(row[0], row[1]) for row in rows("Settings")] == [
        (f"`{PREFIX}{name.upper()}`", shown(field.default)) for name, field in Settings.model_fields.items()
    ]


def test_the_topics_table_lists_every_topic() -> None:
    topics = Topics.of(Settings.model_construct())
    assert [row[0] for row in rows("Topics")] == [f"`{spec.name}`" for spec in topics.specs()]


@pytest.mark.parametrize("path", ["docker-compose.yml", "deploy/Dockerfile", "docs/operations.md"])
def test_only_settings_that_there_are_are_named(path: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*", (_ROOT / path).read_text(encoding="utf-8")))
    assert named
    assert named <= _VARIABLES
