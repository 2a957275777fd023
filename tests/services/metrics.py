"""What tests read of a worker's metrics, as Prometheus would."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from feedback_app.embedded.worker import WorkerProcess


class Scrape:
    """The samples of one answer."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = list(samples)

    @classmethod
    def of(cls, worker: WorkerProcess, **headers: str) -> Scrape:
        request = urllib.request.Request(f"{worker.url}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return cls.parsed(answer.read().decode())

    @classmethod
    def parsed(cls, text: str) -> Scrape:
        return cls(sample for family in text_string_to_metric_families(text) for sample in family.samples)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all samples that have *labels*; there must be one."""
        values = [each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items()]
        assert values, f"no {name} with {labels}"
        return sum(values)

    def partitions(self, name: str) -> set[int]:
        """Return the partitions that a gauge is there for."""
        return {int(each.labels["partition"]) for each in self.samples if each.name == name}
