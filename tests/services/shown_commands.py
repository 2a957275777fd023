"""Whether a command that a document shows could be run: there are such programs, options, targets, files and names.

It is for what takes engines, clusters or hours, and for commands in the middle of a sentence.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from pydantic import TypeAdapter

from feedback_app.settings import PREFIX, Settings, load_settings
from tests.services.examples import ROOT, assignments

_KUBERNETES = ROOT / "deploy" / "kubernetes"
_DEMO = (sys.executable, "-m", "feedback_app", "demo")
#: Programs that a make target ends in, as ``make --dry-run`` shows them.
_RECIPE = re.compile(r"\.venv/bin/(?:python -m )?(?P<program>[\w.-]+)")
#: Written to disk by a setting, and not here.
_FILE_SETTINGS = {f"{PREFIX}BROKER_{name}_FILE" for name in ("CA", "CERT", "KEY")}


def check_command(words: Sequence[str]) -> None:
    """Fail if a command can't be what somebody should type; also if nobody has said how to find out."""
    values = assignments(words)
    if values is not None:
        check_variables(values)
        return
    assert words[0] in _CHECKS, f"nothing knows how to check {words[0]!r}"
    _CHECKS[words[0]](list(words[1:]))


def check_variables(values: Mapping[str, str]) -> None:
    """Fail if variables are none of the settings, or have values that the settings do not take."""
    names = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    assert values.keys() <= names.keys(), f"no settings: {values.keys() - names.keys()}"
    given: dict[str, Any] = {
        names[name]: __file__ if name in _FILE_SETTINGS else value for name, value in values.items()
    }
    load_settings(**given, _env_file=None)


def check_options(words: Sequence[str], help_text: str) -> None:
    """Fail if there are options among *words* that *help_text* does not have."""
    for word in words:
        if re.match(r"--?[a-z]", word):
            option = word.partition("=")[0]
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_text), f"no option {option}"


def check_option(text: str) -> None:
    """Fail if an option that stands for itself, or in ``ARGS``, is none of any command of ours."""
    check_options(text.removeprefix("ARGS=").strip('"').split(), _all_help())


# -- programs --------------------------------------------------------------------------------------------------------


def _faust(words: list[str]) -> None:
    assert words[:2] == ["-A", "feedback_app"]
    known = _faust_help()
    path = next(tuple(words[2:end]) for end in (4, 3, 2) if tuple(words[2:end]) in known)
    assert path or words[2:] in ([], ["command"]), f"no command {words[2:3]}"
    check_options(words[2:], known[path])


def _feedback_app(words: list[str]) -> None:
    check_options(words, _help(sys.executable, "-m", "feedback_app", words[0], "--help"))


def _make(words: list[str]) -> None:
    arguments = [word for word in words if "=" not in word]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in variables:
        assert f"$({name})" in makefile, f"the Makefile does not use {name}"
    for target in arguments:
        recipe = _make_recipe(target)
        if options := variables.get("ARGS", "").split():
            check_options(options, _program_help(_RECIPE.findall(recipe)[-1]))


@cache
def _make_recipe(target: str) -> str:
    """Return what make would do for a target; fail where there is none."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _program_help(program: str) -> str:
    if program == "feedback-app":
        return _help(*_DEMO, "--help")
    if program == "tests.fuzz.decoder":  # needs an extra: what it takes stands in its source
        return (ROOT / "tests" / "fuzz" / "decoder.py").read_text(encoding="utf-8")
    return _help(sys.executable, "-m", program, "--help")


def _docker(words: list[str]) -> None:
    if words[0] == "compose":
        _compose(words[1:])
    elif words[0] == "build":
        assert words[1::2][:2] == ["--file", "--tag"], words
        assert (ROOT / words[2]).is_file()
        assert words[5:] == ["."]
    else:
        assert words[0] == "push", words


def _compose(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    for name, value in _pairs([word for word in words if word != "up"]):
        if name == "--scale":
            assert value.partition("=")[0] in services
        elif name == "--profile":
            assert any(value in service.get("profiles", []) for service in services.values())
        else:
            raise AssertionError(f"docker compose {name}: nothing knows how to check it")


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    assert len(words) % 2 == 0, words
    return zip(words[::2], words[1::2], strict=True)


def _kubectl(words: list[str]) -> None:
    manifests = [
        manifest
        for path in sorted(_KUBERNETES.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    (settings,) = (each for each in manifests if each["kind"] == "Kustomization")
    (workers,) = (each for each in manifests if each["kind"] == "StatefulSet")
    name, labels = workers["metadata"]["name"], workers["spec"]["template"]["metadata"]["labels"]
    if words[0] == "--namespace":
        assert words[1] == settings["namespace"]
        words = words[2:]
    match words:
        case ["apply", "-k", folder]:
            assert (ROOT / folder / "kustomization.yaml").is_file()
        case ["create", "namespace", namespace]:
            assert namespace == settings["namespace"]
        case ["label", "namespace", namespace, label]:
            assert namespace == settings["namespace"]
            assert re.fullmatch(r"pod-security\.kubernetes\.io/enforce=(restricted|baseline)", label)
        case ["create", "secret", "generic", secret, source]:
            assert secret in str(workers)
            assert re.fullmatch(r"--from-(env-)?file=\S+", source)
        case ["delete", "pod", "--selector", selector]:
            assert dict([selector.split("=", 1)]).items() <= labels.items()
        case ["logs", pod, "--previous"]:
            assert re.fullmatch(rf"{name}-\d+", pod)
        case ["exec", pod, "--", *command]:
            assert re.fullmatch(rf"{name}-\d+", pod)
            check_command(command)
        case ["rollout", "restart", "statefulset", restarted]:
            assert restarted == name
        case ["port-forward"]:
            pass
        case _:
            raise AssertionError(f"kubectl {words}: nothing knows how to check it")


def _pip(words: list[str]) -> None:
    if words[1:] == ["./native"]:
        assert (ROOT / "native" / "pyproject.toml").is_file()
        return
    assert words[:2] == ["install", "--constraint"]
    assert (ROOT / words[2]).is_file()
    (project,) = words[3:]
    match = re.fullmatch(r"\.(?:\[(\w+)\])?", project)
    assert match, project
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert match[1] is None or match[1] in extras, f"no extra {match[1]}"


def _bash(words: list[str]) -> None:
    (script,) = words
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def _openssl(words: list[str]) -> None:
    assert words[:2] == ["rand", "-base64"]
    TypeAdapter(int).validate_python(words[2])


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "bash": _bash,
    "docker": _docker,
    "faust": _faust,
    "feedback-app": _feedback_app,
    "kubectl": _kubectl,
    "make": _make,
    "openssl": _openssl,
    "pip": _pip,
}


# -- help ------------------------------------------------------------------------------------------------------------


@cache
def _help(*command: str) -> str:
    """Return what a command says of itself."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


#: Prints the help of the commands on the application, and of those in their groups: each in a process of its own would
#: take two seconds.
_PRINT_HELP = """
import json, sys
sys.argv = ["faust", "-A", "feedback_app"]
from faust.cli.faust import cli

def texts(path, command, parent):
    context = command.context_class(command, info_name=path[-1] if path else "faust", parent=parent)
    yield path, command.get_help(context)
    for name in getattr(command, "list_commands", lambda context: [])(context):
        yield from texts([*path, name], command.get_command(context, name), context)

cli.make_context("faust", sys.argv[1:], resilient_parsing=True)
print(json.dumps(list(texts([], cli, None))))
"""


@cache
def _faust_help() -> Mapping[tuple[str, ...], str]:
    """Return what each command on the application says of itself, by its words; the application itself has none."""
    told = json.loads(_help(sys.executable, "-c", _PRINT_HELP))
    return {tuple(path): text for path, text in told}


@cache
def _all_help() -> str:
    """Return what all commands of ours say of themselves."""
    ours = ("worker", "simulate", "verify", "windows", "partitions", "forget", "topics")
    letters = ("dead-letters list", "dead-letters replay")
    modules = ("mypy", "tests.chaos", "benchmarks.compare", "benchmarks.scale", "benchmarks.memory")
    programs = [*((sys.executable, "-m", name, "--help") for name in modules), (*_DEMO, "--help")]
    told = [_faust_help()[tuple(name.split())] for name in (*ours, *letters)]
    return "\n".join([*told, *(_help(*program) for program in programs)])
