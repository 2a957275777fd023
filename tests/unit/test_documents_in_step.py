"""What is written for people and for containers says what the code does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from enum import Enum
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from feedback_app.core.clock import ManualClock
from feedback_app.health import Health
from feedback_app.liveness import Liveness
from feedback_app.measuring import PartitionFigures
from feedback_app.metrics import Metrics
from feedback_app.settings import PREFIX, Settings
from feedback_app.topics import Topics

_ROOT = Path(__file__).parents[2]
_OPERATIONS = _ROOT / "docs" / "operations.md"
_ALERTS = _ROOT / "deploy" / "prometheus" / "alerts.yml"
_DASHBOARD = _ROOT / "deploy" / "grafana" / "dashboards" / "feedback.json"
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
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])])
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


class OneWorker:
    """Owns a partition of which everything is known."""

    def figures(self) -> Iterator[PartitionFigures]:
        yield PartitionFigures(0, {"feedback": 0, "repartition": 0}, 0, 0, 0, 0, 0.0)

    def restoring(self) -> int:
        return 0

    def not_ready(self) -> str:
        return ""


def metrics() -> Metrics:
    all_of_them = Metrics()
    all_of_them.watch(OneWorker(), Health(), Liveness(), ManualClock(), partitions=1, mode="hybrid", version="1")
    return all_of_them


def exposed() -> list[tuple[str, str, set[str]]]:
    """Return every metric: its name as it is queried, its type as the text format has it, and its labels."""
    suffixes = {"counter": "_total", "info": "_info"}
    return [
        (
            family.name + suffixes.get(family.type, ""),
            "gauge" if family.type == "info" else family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in metrics().registry.collect()
    ]


def series() -> set[str]:
    return {sample.name for family in metrics().registry.collect() for sample in family.samples}


def test_the_metrics_table_lists_every_metric_with_its_type_and_labels() -> None:
    # A cell names labels as ``label``, or ``label: value, value``; labels that have values are set apart by semicolons.
    listed = []
    for row in rows("Metrics"):
        parts = [part for part in row[2].split(";") if part]
        labels = {
            name for part in parts for name in re.findall(r"`(\w+)`", part.partition(":")[0] if ":" in part else part)
        }
        listed.append((row[0].strip("`"), row[1], labels))
    assert sorted(listed, key=itemgetter(0)) == sorted(exposed(), key=itemgetter(0))


def test_the_six_figures_are_all_there() -> None:
    assert {row[4] for row in rows("Metrics") if row[4]} == {
        "flush rate",
        "batch size",
        "batches in memory",
        "MongoDB operations",
        "events published",
        "batch age",
    }


@pytest.mark.parametrize("path", [_ALERTS, _DASHBOARD])
def test_only_metrics_that_there_are_are_asked_for(path: Path) -> None:
    named = set(re.findall(r"\b(?:feedback|process)_[a-z_]+\b", path.read_text(encoding="utf-8")))
    assert named
    assert named <= series()


def test_every_alert_says_what_is_wrong_and_where_to_read_what_to_do() -> None:
    alerts = _ALERTS.read_text(encoding="utf-8").split("- alert: ")[1:]
    assert len(alerts) >= 7
    headings = re.findall(r"^#+ (.+)$", _OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for alert in alerts:
        name = alert.splitlines()[0]
        assert re.search(r"^ +summary: \S", alert, re.MULTILINE), name
        assert re.search(r"^ +severity: (critical|warning)$", alert, re.MULTILINE), name
        (anchor,) = re.findall(r"^ +runbook_url: docs/operations\.md#(\S+)$", alert, re.MULTILINE)
        assert anchor in anchors, name


def test_the_dashboard_shows_all_that_should_be_watched() -> None:
    dashboard = json.loads(_DASHBOARD.read_text(encoding="utf-8"))
    shown = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))
    for row in rows("Metrics"):
        name = row[0].strip("`")
        if name.startswith("feedback_") and name != "feedback_build_info":
            assert re.search(rf"\b{name}(_bucket|_sum|_count)?\{{", shown), name
    sources = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    provisioned = _ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    assert sources == set(re.findall(r"uid: (\w+)", provisioned.read_text(encoding="utf-8")))


def test_prometheus_and_alerts_speak_of_one_job() -> None:
    configured = (_ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (job,) = re.findall(r"job_name: (\w+)", configured)
    for path in (_ALERTS, _DASHBOARD):
        jobs = re.findall(r'job=\\?"(\w+)\\?"', path.read_text(encoding="utf-8"))
        assert set(jobs) == {job}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the PATH")
def test_promtool_takes_the_alerts_and_the_metrics() -> None:
    checked = subprocess.run(["promtool", "check", "rules", _ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text, _ = metrics().exposition("")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text.decode(), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("path", ["docker-compose.yml", "deploy/Dockerfile", "docs/operations.md"])
def test_only_settings_that_there_are_are_named(path: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*", (_ROOT / path).read_text(encoding="utf-8")))
    assert named
    assert named <= _VARIABLES
