"""The examples in the documents: blocks of code, and commands in running text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/kubernetes/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]

_BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`(?P<text>[^`]+)`(?!`)")
#: Text in the middle of a sentence that is something to type.
_TYPED = re.compile(r"(faust|feedback-app|make|docker|kubectl|bash|pip|curl|openssl) \S|ARGS=|FEEDBACK_\w+=|--?[a-z]")
_BETWEEN = {"&&", "||", "|", ";"}


@dataclass(frozen=True, slots=True)
class Example:
    """A part of a document, and where it begins."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Example]:
    """Yield every fenced block of every document."""
    for document in DOCUMENTS:
        content = (ROOT / document).read_text(encoding="utf-8")
        for match in _BLOCK.finditer(content):
            yield Example(document, _line(content, match), match["language"].strip(), match["text"])


def spans() -> Iterator[Example]:
    """Yield what is to be typed, of all that stands between backticks outside of the blocks."""
    for document in DOCUMENTS:
        content = (ROOT / document).read_text(encoding="utf-8")
        outside = _BLOCK.sub(lambda match: "\n" * match[0].count("\n"), content)
        for match in _SPAN.finditer(outside):
            text = re.sub(r"<(\w+)>", r"\1", " ".join(match["text"].split()))
            if _TYPED.match(text):
                yield Example(document, _line(outside, match), "", text)


def lines(script: str) -> Iterator[str]:
    """Yield the lines of a shell script, those that go on in the next one joined; neither comments nor empty ones."""
    for line in re.sub(r"\\\n\s*", "", script).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


def commands(line: str) -> list[list[str]]:
    """Return the words of each command of a line, as ``a | b && c`` has three; less comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in _BETWEEN:
            found.append([])
        elif word in {">", "<", ">>"}:
            next(words)
        else:
            found[-1].append(word)
    return found


def assignments(words: Sequence[str]) -> dict[str, str] | None:
    """Return the variables that a command sets; None when it does something else as well."""
    pairs = [word.partition("=") for word in words if word != "export"]
    if pairs and all(separator and re.fullmatch(r"[A-Z_]+", name) for name, separator, _ in pairs):
        return {name: value for name, _, value in pairs}
    return None


def _line(content: str, match: re.Match[str]) -> int:
    return content.count("\n", 0, match.start()) + 1
