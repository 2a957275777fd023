"""The processes of one architecture, the Redis that they share if they do, and what is known of them from outside."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from benchmarks.architectures.contenders import Architecture
from benchmarks.architectures.figures import last_told
from benchmarks.architectures.shared import CLAIMS, DUE
from benchmarks.architectures.with_redis import LEASE, URL
from benchmarks.measuring import ContenderFailed, Member, Usage, usage_of
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import environment
from feedback_app.settings import Settings
from tests.services.redis import RedisServer

_POLL_S: Final = 0.1
_JOINS_WITHIN_S: Final = 60.0
#: Longer than any bulk write takes here, so that no claim of a living worker is taken over.
_LEASE_MS: Final = 15_000


class Fleet:
    """As many processes as the architecture has members, started on entering and ended on leaving.

    Args:
        settings: of the first; the others differ in data dir and web port.
        directory: for logs.
    """

    def __init__(self, architecture: Architecture, settings: Settings, directory: Path) -> None:
        self.architecture = architecture
        self._settings = [settings] + [
            settings.model_copy(update={"data_dir": settings.data_dir / str(number), "web_port": free_port()})
            for number in range(1, architecture.members)
        ]
        self._directory = directory
        self.redis = RedisServer() if architecture.shares_redis else None
        self._members: list[Member] = []
        self._ended: list[Member] = []
        self._started = 0

    def __enter__(self) -> Self:
        if self.redis is not None:
            self.redis.start()
        self._members = [self._start(settings) for settings in self._settings]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.kill()
        if self.redis is not None:
            self.redis.close()

    @property
    def ended(self) -> bool:
        """Whether one of them has."""
        return any(member.ended for member in self._members)

    def says(self, line: str) -> bool:
        """Say whether each of them has written *line*."""
        return all(f"{line}\n" in member.log for member in self._members)

    def usage(self) -> Usage:
        """Return what they have used: the CPU seconds of all, and the memory of the largest."""
        used = [usage_of(member.pid) for member in self._members]
        return Usage(sum(each.cpu_seconds for each in used), max(each.peak_mb for each in used))

    def nothing_left(self) -> bool:
        """Say whether no batch is in memory, nor in Redis."""
        if self.redis is None:
            return not self.now("items")
        with Redis.from_url(self.redis.url) as redis:
            return not redis.zcard(DUE) and not redis.zcard(CLAIMS)

    def wait_until_joined(self) -> None:
        """Wait until each member has partitions of the group.

        Raises:
            ContenderFailed: one has ended, or it took too long.
        """
        servers, group = self._settings[0].bootstrap_servers, self._settings[0].app_id
        admin, deadline = (
            AdminClient({"bootstrap.servers": servers, "log_level": 0}),
            time.monotonic() + _JOINS_WITHIN_S,
        )
        while True:
            try:
                described = admin.describe_consumer_groups([group])[group].result()
                busy = sum(bool(member.assignment.topic_partitions) for member in described.members)
            except KafkaException:
                busy = 0  # there is no such group yet
            if busy >= len(self._members) and (not self.architecture.ours or self._restored()):
                return
            self.check()
            if time.monotonic() > deadline:
                raise ContenderFailed(f"{busy} of {len(self._members)} have joined the group\n{self.last_words()}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Make sure that all run.

        Raises:
            ContenderFailed: one does not.
        """
        if self.ended:
            raise ContenderFailed(f"it has ended\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of what they have written."""
        return "\n".join(member.log[-2_000:] for member in self._members)

    def kill_first(self) -> None:
        """SIGKILL the first member, for good."""
        killed = self._members.pop(0)
        killed.kill()
        self._ended.append(killed)

    def kill_and_restart_first(self) -> None:
        """SIGKILL the first member, and start it again as it was."""
        self.kill_first()
        self._members.insert(0, self._start(self._settings[0]))

    def stop_in_order(self, seconds: float) -> None:
        """Ask all to end, and wait until they have: what batches they have in their hands they write first."""
        for member in self._members:
            member.terminate()
        for member in self._members:
            member.wait(seconds)

    def resident_mb(self) -> float:
        """Return the memory of the largest process now."""
        return max(_resident_mb(member.pid) for member in self._members)

    def peak_mb(self) -> float:
        """Return the highest that any process has taken since its start."""
        return self.usage().peak_mb

    def redis_mb(self) -> float:
        """Return the highest that their Redis has taken; 0 where there is none."""
        return usage_of(self.redis.pid).peak_mb if self.redis is not None else 0.0

    def told(self) -> list[dict[str, Any]]:
        """Return each member's last figures: of a service of ``benchmarks.architectures``."""
        return [last_told(member.log) for member in [*self._ended, *self._members]]

    def total(self, figure: str) -> float:
        """Return a figure, summed up over all members, those that were killed included."""
        return float(sum(told.get(figure, 0) for told in self.told()))

    def now(self, figure: str) -> float:
        """Return a figure, summed up over the members that are there now."""
        return float(sum(last_told(member.log).get(figure, 0) for member in self._members))

    def metrics(self) -> Mapping[str, float]:
        """Return the sum of every metric of this application's workers, over labels and workers.

        Raises:
            ContenderFailed: one does not answer.
        """
        sums: dict[str, float] = {}
        for settings in self._settings:
            address = f"http://{settings.web_host}:{settings.web_port}/metrics"
            try:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    told = answer.read().decode()
            except OSError as error:
                raise ContenderFailed(f"{address}: {error}\n{self.last_words()}") from error
            for family in text_string_to_metric_families(told):
                for sample in family.samples:
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def _restored(self) -> bool:
        for settings in self._settings:
            try:
                address = f"http://{settings.web_host}:{settings.web_port}/health/ready"
                with urllib.request.urlopen(address, timeout=2):
                    continue
            except OSError:
                return False
        return True

    def _start(self, settings: Settings) -> Member:
        self._started += 1
        variables = dict(environment(settings))
        if self.redis is not None:
            variables |= {URL: self.redis.url, LEASE: str(_LEASE_MS)}
        log = self._directory / f"{settings.app_id}-{self._started}.log"
        return Member(self.architecture.command, variables, log)


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1_000_000
    return 0.0
