"""The workers of one scenario: started, disturbed, and started again when they have died, as a supervisor would."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from feedback_app.embedded.process import EmbeddedError
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.errors import FeedbackError
from feedback_app.settings import Settings
from tests.chaos import breakages, faults
from tests.chaos.faults import Fault
from tests.services.workers import partitions_of

#: Asking costs the workers more than their work does, on a small machine.
_POLL_S: Final = 0.3
_PATIENCE_S: Final = 90.0
#: Between two tries of a supervisor.
_BACKOFF_S: Final = 1.0


class ScenarioFailed(FeedbackError):
    """A scenario did not go as it has to."""


class ChaosWorker(WorkerProcess):
    """A worker that can be told what to suffer at its next start."""

    def __init__(self, settings: Settings, log: Path, broken: str) -> None:
        super().__init__(settings, log, app="tests.chaos.worker")
        self.partitions = settings.partitions
        self.wanted = False
        self.deaths = 0
        self._broken = broken
        self._next_try = 0.0

    def begin(self, *suffers: Fault, **more: object) -> None:
        """Start it, to suffer *suffers*; *more* are variables of ``tests.chaos.worker``, less their prefix."""
        self.wanted = True
        disturbances = {f"CHAOS_{name.upper()}": str(value) for name, value in more.items()}
        self._env.update(disturbances | {faults.VARIABLE: faults.as_variable(suffers)})
        if self._broken:
            self._env[breakages.VARIABLE] = self._broken
        self.start()

    def calm(self, *names: str) -> None:
        """Suffer nothing after the next start, or less of the variables named."""
        for name in [faults.VARIABLE, *(f"CHAOS_{name.upper()}" for name in names)]:
            self._env.pop(name, None)

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self.wanted = False
        process = self._process
        self.stop()
        return process.returncode if process is not None else 0

    def crash(self) -> None:
        """Kill it, and leave it to the supervisor."""
        self.kill()
        self.deaths += 1

    def wipe(self) -> None:
        """Lose its disk. It must not be running."""
        shutil.rmtree(self.settings.data_dir, ignore_errors=True)

    def tend(self) -> None:
        """Start it again, undisturbed, if it has died."""
        if not self.wanted or self.running or time.monotonic() < self._next_try:
            return
        self._note_death()
        self.calm()
        try:
            self.start()
        except EmbeddedError:  # what it needs is not there: a supervisor tries again
            self._next_try = time.monotonic() + _BACKOFF_S

    def died(self) -> bool:
        """Say whether it has ended by itself since it was started."""
        return not self.running

    def _note_death(self) -> None:
        if self._process is not None:
            self.deaths += 1
            self._process = None

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still under SIGSTOP."""
        if not self.running:
            return False
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def owned(self) -> set[int]:
        """Return the partitions that it owns."""
        return partitions_of(self)


class Fleet:
    """All workers of a scenario, and its patience."""

    def __init__(self) -> None:
        self.workers: list[ChaosWorker] = []

    def tend(self) -> None:
        """Do what a supervisor does."""
        for worker in self.workers:
            worker.tend()

    def until(self, what: Callable[[], object], description: str, *, tended: bool = True) -> None:
        """Wait until *what* is so.

        Args:
            tended: whether workers that die meanwhile are started again.

        Raises:
            ScenarioFailed: it did not come to that.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not what():
            if tended:
                self.tend()
            if time.monotonic() > deadline:
                raise ScenarioFailed(f"it did not come to this within {_PATIENCE_S:g} s: {description}\n{self.logs()}")
            time.sleep(_POLL_S)

    def until_ready(self, *workers: ChaosWorker) -> None:
        """Wait until workers serve."""
        for worker in workers or self.workers:
            self.until(lambda worker=worker: worker.get("/health/ready")[0] == 200, "the worker is ready")  # type: ignore[misc]  # mypy: a lambda with a default

    def until_balanced(self, workers: Sequence[ChaosWorker]) -> None:
        """Wait until each of *workers* owns partitions, and together they own all."""
        partitions = set(range(workers[0].partitions))

        def balanced() -> bool:
            shares = [worker.owned() for worker in workers]
            return all(shares) and set().union(*shares) == partitions

        self.until(balanced, f"{len(workers)} workers share the partitions")

    def rest(self, seconds: float) -> None:
        """Let time pass: for faults whose moment is chance."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(left, _POLL_S))

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {worker.log.name}\n{worker.end_of_log()}" for worker in self.workers)

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for worker in self.workers:
            if worker.is_stopped:
                worker.thaw()
            worker.wanted = False
            worker.close()
