"""The wheel works by itself: built, installed into an environment of its own, and used far from the source tree.

The new environment borrows what the wheel depends on from the one that runs the tests, behind its own packages, so that
nothing is downloaded; the project itself comes from the wheel, and the test makes sure of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGES = ["feedback_app", "agents", "tables"]


def _run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEEDBACK_"))}
    done = subprocess.run(command, check=False, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, _ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which the wheel is installed."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    interpreter = environment / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", interpreter, "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=environment)
    # A path listed here comes after the environment's own packages, and an editable install there is not followed.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return interpreter


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (metadata,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {name.split("/")[0] for name in names} == {*_PACKAGES, metadata}
    assert f"{metadata}/licenses/LICENSE" in names


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    sources = {
        str(path.relative_to(_ROOT))
        for package in _PACKAGES
        for path in (_ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert sources <= set(archive.namelist())


def test_the_packages_come_from_the_wheel(python: Path, elsewhere: Path) -> None:
    script = f"import {', '.join(_PACKAGES)}; print(*(m.__file__ for m in ({', '.join(_PACKAGES)})), sep='\\n')"
    files = [Path(line) for line in _run(python, "-c", script, cwd=elsewhere).splitlines()]
    assert len(files) == len(_PACKAGES)
    assert all(file.is_relative_to(python.parents[1]) for file in files)


def test_faust_finds_the_application(python: Path, elsewhere: Path) -> None:
    assert re.search(r"@\S*feedback", _run(python, "-m", "faust", "-A", "feedback_app", "agents", cwd=elsewhere))


def test_the_command_is_installed(python: Path, elsewhere: Path) -> None:
    assert "demo" in _run(python.with_name("feedback-app"), "--help", cwd=elsewhere)
