"""Apache Kafka from its Maven artifacts: one node, KRaft, on the loopback interface.

It needs Java and, the first time, Maven. Topics are never made by accident, and crashed group members may be noticed
within a second, where a test asks for such a session timeout.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Final
from xml.etree import ElementTree

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from feedback_app.embedded.process import HOST, ChildProcess, free_port

_POM: Final = Path(__file__).with_name("pom.xml")
_CACHE: Final = Path(__file__).parents[2] / ".cache" / "kafka"
_OLDEST_JAVA: Final = 17
_DOWNLOAD_TIMEOUT_S: Final = 900
_FORMAT_TIMEOUT_S: Final = 60
_READY_TIMEOUT_S: Final = 60

_PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
log.dirs={logs}

auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# A node that was killed may register again only once its former session has expired.
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=5000

# What the broker does in the background is to happen within a test.
log.cleaner.backoff.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000

# Tests make thousands of partitions, all of them small.
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=33554432
"""


class ServiceUnavailable(Exception):
    """This machine lacks what the service needs; the message says what."""


class ApacheKafka(ChildProcess):
    """A single-node Apache Kafka. What it has acknowledged survives :meth:`kill`.

    Attributes:
        JVM: how Java runs it. It seldom lives for longer than minutes: optimizing its code for long would take half of
            its processor time, and a third of its start.
        PROPERTIES: lines for its configuration, beyond those that all have.
    """

    JVM: ClassVar[Sequence[str]] = ("-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    PROPERTIES: ClassVar[str] = ""

    def __init__(self, data_dir: Path | None = None, *, port: int | None = None) -> None:
        """Prepare a broker; the first one ever downloads Kafka.

        Args:
            data_dir: where it keeps its data; made if missing, kept afterwards. Without one, a temporary directory
                that lasts until :meth:`close`.
            port: where it listens; a free port by default. A restart listens on the same one.

        Raises:
            ServiceUnavailable: Java is missing or too old, or Kafka could not be downloaded.
        """
        self._java = java()
        self._classpath = f"{kafka_jars()}/*"
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if data_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="feedback-kafka-", ignore_cleanup_errors=True)
            data_dir = Path(self._temporary.name)
        self.data_dir = data_dir.resolve()
        self._controller_port = free_port()
        self._properties = self.data_dir / "server.properties"
        super().__init__(
            "Apache Kafka",
            [self._java, *self.JVM, "-cp", self._classpath, "kafka.Kafka", str(self._properties)],
            port or free_port(),
            start_timeout_s=90,
            stop_timeout_s=30,
        )

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the broker on its data directory, which is formatted first when it is new.

        Returns when it serves groups and transactions: their coordinators come some time after the port, and
        librdkafka's ``send_offsets_to_transaction`` may wait for ever for one that is not there yet, whatever its
        timeout (librdkafka issue 5456).

        Raises:
            EmbeddedError: as :meth:`ChildProcess.start`.
            KafkaException: the coordinators did not come.
        """
        if not self._properties.exists():
            self._format()
        super().start()
        try:
            _wait_for_coordinators(f"{HOST}:{self.port}")
        except BaseException:
            self.kill()
            raise

    def close(self) -> None:
        """Stop for good; a temporary data directory is removed."""
        if self._temporary is None:
            super().close()
            return
        # Nobody will read what an orderly shutdown would write, and it takes seconds.
        self.kill()
        super().close()
        self._temporary.cleanup()

    def _format(self) -> None:
        logs = self.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        unfinished = self._properties.with_suffix(".new")
        unfinished.write_text(self._server_properties(logs))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [self._java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", self._classpath]
        # In one word: an id may begin with "-".
        command += ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster_id}"]
        command += ["--config", str(unfinished)]
        command += self._format_options()
        run(command, "Kafka's storage could not be formatted", _FORMAT_TIMEOUT_S)
        unfinished.rename(self._properties)

    def _server_properties(self, logs: Path) -> str:
        common = _PROPERTIES.format(host=HOST, port=self.port, controller_port=self._controller_port, logs=logs)
        return f"{common}\n{self.PROPERTIES}"

    def _format_options(self) -> list[str]:
        return []


def _wait_for_coordinators(bootstrap_servers: str) -> None:
    client = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    consumer = Consumer({**client, "group.id": "ready"})
    # While a coordinator moves in, it refuses with errors that librdkafka does not try again by itself.
    retrying = Retrying(
        retry=retry_if_exception_type(KafkaException),
        stop=stop_after_delay(_READY_TIMEOUT_S),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    retrying(consumer.committed, [TopicPartition("ready", 0)], timeout=_READY_TIMEOUT_S)
    consumer.close()
    retrying(Producer({**client, "transactional.id": "ready"}).init_transactions, _READY_TIMEOUT_S)


@cache
def why_unavailable() -> str:
    """Return why Apache Kafka can't run on this machine; empty when it can. Downloads it if it has to."""
    try:
        java()
        kafka_jars()
    except ServiceUnavailable as error:
        return str(error)
    return ""


@cache
def kafka_jars() -> Path:
    """Return the directory of Kafka's jars, downloading them once for each version.

    Raises:
        ServiceUnavailable: they are not there and can't be downloaded.
    """
    version = ElementTree.parse(_POM).findtext("properties/kafka.version")
    return made_once(_CACHE / f"kafka-{version}", _download)


def _download(jars: Path) -> None:
    goal = [maven("download Apache Kafka"), "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies"]
    run([*goal, f"-DoutputDirectory={jars}"], "Kafka could not be downloaded", _DOWNLOAD_TIMEOUT_S)


def made_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """Return *directory*; the first time, have *make* fill it under another name, so that it is never there in part."""
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, ignore_cleanup_errors=True) as temporary:
        unfinished = Path(temporary) / "unfinished"
        make(unfinished)
        try:
            unfinished.rename(directory)
        except OSError:
            # Another run was faster; whatever else went wrong shows here.
            if not directory.is_dir():
                raise
    return directory


def maven(purpose: str) -> str:
    """Return the path of Maven, which is needed to *purpose*.

    Raises:
        ServiceUnavailable: there is none.
    """
    found = shutil.which("mvn")
    if found is None:
        raise ServiceUnavailable(f"mvn (Maven) is needed to {purpose}")
    return found


@cache
def java() -> str:
    """Return the path of Java.

    Raises:
        ServiceUnavailable: there is none, or it is too old.
    """
    found = shutil.which("java")
    if found is None:
        raise ServiceUnavailable(f"Apache Kafka needs java, {_OLDEST_JAVA} or later")
    told = run([found, "-version"], "java does not work", _FORMAT_TIMEOUT_S)
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        raise ServiceUnavailable(f"Apache Kafka needs java {_OLDEST_JAVA} or later, this one is: {told.strip()}")
    return found


def run(command: list[str], failure: str, timeout_s: float) -> str:
    """Return what the command printed, both streams; ServiceUnavailable, beginning with *failure*, if it fails."""
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailable(f"{failure}: {command[0]} took longer than {timeout_s:g} s") from error
    if done.returncode != 0:
        raise ServiceUnavailable(f"{failure}: {done.stdout.strip()}")
    return done.stdout
