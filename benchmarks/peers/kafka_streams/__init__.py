"""Kafka Streams, in Java: built once from the sources beside this file, then started like any other contender."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final, Literal

from tests.services.kafka import ServiceUnavailable, java, made_once, maven, run

Guarantee = Literal["at_least_once", "exactly_once_v2"]

_PROJECT: Final = Path(__file__).parent
_CACHE: Final = Path(__file__).parents[3] / ".cache" / "kafka-streams"
_BUILD_TIMEOUT_S: Final = 900


def command(threads: int, guarantee: Guarantee) -> list[str]:
    """Return what starts the contender; it reads the same ``FEEDBACK_*`` environment as ours.

    Raises:
        ServiceUnavailable: a JDK or Maven is missing, or it could not be built.
    """
    arguments = ["--threads", str(threads), "--guarantee", guarantee]
    return [java(), "-Xmx1g", "-cp", f"{jars()}/*", "feedback.WindowCounts", *arguments]


def jars() -> Path:
    """Return the directory of its jars and all that they need, building them once for each state of the sources.

    Raises:
        ServiceUnavailable: as :func:`command`.
    """
    return made_once(_CACHE / _fingerprint(), _build)


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for file in sorted([_PROJECT / "pom.xml", *(_PROJECT / "src").rglob("*.*")]):
        digest.update(f"{file.relative_to(_PROJECT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(jars: Path) -> None:
    if shutil.which("javac") is None:
        raise ServiceUnavailable("a JDK (javac) is needed to build the Kafka Streams contender")
    with tempfile.TemporaryDirectory(dir=jars.parent) as directory:
        project = Path(directory)
        shutil.copy(_PROJECT / "pom.xml", project)
        shutil.copytree(_PROJECT / "src", project / "src")
        goal = [maven("build the Kafka Streams contender"), "-B", "-q", "-f", str(project / "pom.xml"), "package"]
        run(goal, "the Kafka Streams contender could not be built", _BUILD_TIMEOUT_S)
        (project / "target" / "jars").rename(jars)
