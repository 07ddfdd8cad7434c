"""Signals that come before the server serves: while it imports, starts, or waits for its store."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from server.importing import ending_in_a_line
from sim import cli
from tests.limits import HANGS_S
from tests.server.support import Output, process

pytestmark = pytest.mark.socket

# Raises a signal in the moment in which a module is looked for.
WHEN_IMPORTED = """\
import os, signal, sys
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and {condition}:
            sys.meta_path.remove(self)
            os.kill({pid}, {number})
sys.meta_path.insert(0, AtImport())
"""
COMMANDS = {
    "python -m server": "import runpy; runpy.run_module('server', run_name='__main__')",
    "onestream serve": "from sim.cli import main; sys.exit(main(['serve']))",
    "onestream fake-ollama": "from sim.cli import main; sys.exit(main(['fake-ollama']))",
    "onestream demo": "from sim.cli import main; sys.exit(main(['demo']))",
}
thorough = pytest.mark.thorough


def raised_at(
    module: str, number: int, *, condition: str = "True", pid: str = "os.getpid()"
) -> str:
    return WHEN_IMPORTED.format(module=module, number=int(number), condition=condition, pid=pid)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        *((command, signal.SIGTERM) for command in COMMANDS),
        ("python -m server", signal.SIGINT),
        *(
            pytest.param(each, signal.SIGINT, marks=thorough)
            for each in COMMANDS
            if each != "python -m server"
        ),
    ],
)
def test_a_signal_while_a_command_imports_is_a_line(command: str, number: signal.Signals) -> None:
    """No traceback, and the end that a shell knows as 130 or 143: by the signal."""
    module = "uvicorn" if command != "onestream demo" else "httpx"
    with process("-c", raised_at(module, number) + COMMANDS[command]) as child:
        output = Output(child)
        assert child.wait(HANGS_S) == -number
        assert output.is_over_within(HANGS_S)
        assert output.lines == [f"{command}: {number.name} came before it had begun, and it ends"]


def test_what_ignores_ctrl_c_still_does_while_it_imports() -> None:
    """A shell starts what runs in its background so; afterwards all is as it was."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminating = signal.getsignal(signal.SIGTERM)
    try:
        with ending_in_a_line("this"):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is not terminating
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is terminating
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_of_any_other_command_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it has no verdict to give; the exit code is that of a shell."""

    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["prove"]) == 130
    assert capsys.readouterr().err == "onestream: Ctrl-C ended it\n"


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGTERM, 1),
        (signal.SIGINT, 2),
        pytest.param(signal.SIGTERM, 2, marks=thorough),
        pytest.param(signal.SIGINT, 1, marks=thorough),
    ],
)
def test_a_signal_that_comes_while_the_server_starts_ends_it(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """With a line that says so and exit code 0; it was swallowed, and the server went on."""
    program = (
        "import os, signal, sys; from server import run, run_workers\n"
        "made = run.config_for\n"
        "def config_for(*given, **named):\n"
        f"    signal.raise_signal({int(number)})\n"
        "    return made(*given, **named)\n"
        "run.config_for = run_workers.config_for = config_for\n"
        "up = lambda url: os.write(1, b'it serves\\n')\n"
        "serve = run.run(port=0, on_started=up) if "
        f"{workers} == 1 else run_workers.run_workers(2, '127.0.0.1', 0, on_started=up)\n"
        "sys.exit(serve)"
    )
    sessions = f"sqlite:{tmp_path}/own/sessions.sqlite"
    with process("-c", program, JARVIS_SESSIONS=sessions if workers > 1 else "") as child:
        output = Output(child)
        output.wait_for(f"ended_early {number.name} came while the server started")
        assert child.wait(HANGS_S) == 0
        assert not any("Traceback" in each or "serves" in each for each in output.lines)


@pytest.mark.parametrize("workers", [pytest.param("1", marks=thorough), "2"])
def test_a_signal_while_a_store_is_asked_that_cannot_be_used_ends_it(workers: str) -> None:
    """Who is told to end, and does, has not failed: exit code 0, beside what the store lacked."""
    with socket.create_server(("127.0.0.1", 0)) as store:
        store.settimeout(HANGS_S)
        address = f"127.0.0.1:{store.getsockname()[1]}"
        command = ("-m", "sim.cli", "serve", "--port", "0", "--workers", workers)
        with process(*command, JARVIS_SESSIONS=f"redis://{address}/0") as child:
            output = Output(child)
            asked, _ = store.accept()
            asked.recv(1)
            child.send_signal(signal.SIGTERM)
            asked.close()
            store.close()
            assert child.wait(HANGS_S) == 0
            assert output.is_over_within(HANGS_S)
    assert any(address in each for each in output.lines), output.lines
    assert "ended_early SIGTERM came while the server started, and it ends" in output.lines
    assert not any("Traceback" in each for each in output.lines), output.lines


def test_ctrl_c_of_a_terminal_while_workers_import_is_a_line(tmp_path: Path) -> None:
    """It reaches each worker as well: none prints a traceback, or is followed by another one."""
    group = raised_at(
        "server.app", signal.SIGINT, condition="'--multiprocessing-fork' in sys.orig_argv", pid="0"
    )
    (tmp_path / "sitecustomize.py").write_text(group)
    with process(
        *("-m", "sim.cli", "serve", "--port", "0", "--workers", "2"),
        JARVIS_SESSIONS=f"sqlite:{tmp_path}/own/sessions.sqlite",
        PYTHONPATH=os.pathsep.join((str(tmp_path), *sys.path)),
    ) as child:
        output = Output(child)
        assert child.wait(HANGS_S) == 0
        assert output.is_over_within(HANGS_S)
    said = [each.split()[0] for each in output.lines]
    assert "Traceback" not in said, output.lines
    assert "worker_ended" not in said
    assert said[-1] == "ended_early"
