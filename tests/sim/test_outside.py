"""What reaches beyond the process within an execution is refused, with its place in the program."""

from __future__ import annotations

import _socket
import asyncio
import ctypes.util
import fcntl
import glob
import multiprocessing
import os
import platform
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

from sim import World, explore
from sim.exploration.verdict import Verdict
from sim.kernel.isolation import outside
from sim.kernel.isolation.audit_events import EVENTS, Refused
from sim.kernel.network.conditions import NOBODYS
from sim.kernel.network.selecting import REAL
from sim.kernel.network.sockets import NOT_SIMULATED
from tests.limits import HANGS_S
from tests.sim.documented_audit_events import DOCUMENTED

# ---- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", DOCUMENTED, ids=lambda version: ".".join(map(str, version)))
def test_every_documented_event_is_decided(version: tuple[int, int]) -> None:
    """An event of a supported CPython that the table does not name is a hole."""
    assert DOCUMENTED[version] - set(EVENTS) == set()


def test_the_running_version_is_among_the_documented_ones() -> None:
    """A new version's events are read and decided before it is supported."""
    assert sys.version_info[:2] in DOCUMENTED


def test_every_event_that_the_librarys_code_raises_is_decided() -> None:
    """Those that the running interpreter's own modules raise by name, documented or not."""
    library = os.path.dirname(os.__file__)
    raised = re.compile(r"""\baudit\(\s*["']([\w./]+)["']""")
    names: set[str] = set()
    for file in glob.glob(f"{library}/*.py") + glob.glob(f"{library}/[!st]*/*.py"):
        names.update(raised.findall(Path(file).read_text(errors="replace")))
    assert "subprocess.Popen" in names
    assert names - set(EVENTS) == set()


# ---- what is refused ---------------------------------------------------------------------------


def forks() -> None:
    if os.fork() == 0:
        os._exit(0)


def reads_a_pipe() -> None:
    read, _ = os.pipe()
    os.read(read, 1)


def polls_a_pipe() -> None:
    waits = select.poll()
    waits.register(0)
    waits.poll()


def reads_a_socket() -> None:
    """One of the system's, that is handed in by its number."""
    one, other = _socket.socketpair()
    with socket.socket(fileno=one.detach()) as real, socket.socket(fileno=other.detach()):
        real.recv(1)


def opens_a_raw_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW)


def begins_a_process(method: str) -> None:
    process: Any = multiprocessing.get_context(method).Process(target=int)
    process.start()


def begins_an_interpreter() -> None:
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    __import__(name).create()


def waits_for_a_files_lock() -> None:
    with tempfile.TemporaryFile() as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def uses_a_pool_of_processes() -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(int).result()


REFUSED: dict[str, tuple[Callable[[], object], Refused | str]] = {
    "subprocess.Popen": (partial(subprocess.run, ["true"]), Refused.PROCESS),
    "os.system": (partial(os.system, "true"), Refused.PROCESS),
    "os.posix_spawn": (partial(os.posix_spawn, "/bin/true", ["true"], {}), Refused.PROCESS),
    "os.fork": (forks, Refused.PROCESS),
    "os.wait": (lambda: os.wait(), Refused.PROCESS),
    "os.waitpid": (lambda: os.waitpid(-1, 0), Refused.PROCESS),
    "os.fork ": (partial(begins_a_process, "fork"), Refused.PROCESS),
    "_posixsubprocess.fork_exec": (partial(begins_a_process, "spawn"), Refused.PROCESS),
    "_multiprocessing.SemLock": (multiprocessing.Lock, Refused.PROCESSES_LOCK),
    "_multiprocessing.SemLock ": (uses_a_pool_of_processes, Refused.PROCESSES_LOCK),
    "_multiprocessing.SemLock  ": (partial(ThreadPool, 1), Refused.PROCESSES_LOCK),
    "PyInterpreterState_New|interpreters.create": (
        begins_an_interpreter,
        Refused.INTERPRETER,
    ),
    "the name 'example.org'": (partial(socket.create_connection, ("example.org", 9)), NOBODYS),
    "the address 192.0.2.1": (partial(urllib.request.urlopen, "http://192.0.2.1:9/"), NOBODYS),
    "socket.socket": (opens_a_raw_socket, NOT_SIMULATED),
    "os.kill": (lambda: os.kill(os.getppid(), 0), Refused.OTHERS_SIGNAL),
    "builtins.input": (input, Refused.PERSON),
    "select.select": (lambda: select.select([], [], [], 1), Refused.REAL_TIME),
    "select.poll": (polls_a_pipe, REAL),
    "os._exit": (lambda: os._exit(0), Refused.OWN_END),
    "os.abort": (lambda: os.abort(), Refused.OWN_END),
    "os.read": (reads_a_pipe, Refused.REAL_TIME),
    "socket.recv": (reads_a_socket, Refused.REAL_TIME),
    "signal.pause": (lambda: signal.pause(), Refused.REAL_TIME),
    "signal.alarm": (lambda: signal.alarm(1), Refused.REAL_TIME),
    "fcntl.flock": (waits_for_a_files_lock, Refused.FILE_LOCK),
}


@pytest.mark.parametrize("in_thread", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_an_error_that_names_the_place(name: str, in_thread: bool) -> None:
    """Also where the program swallows what is raised, and in a thread; nothing happens for real."""
    act, instead = REFUSED[name]

    def swallowed() -> None:
        with suppress(Exception):
            act()  # here it is asked

    async def program(_: World) -> None:
        await asyncio.to_thread(swallowed) if in_thread else swallowed()

    report = explore(program, max_executions=1)
    assert report.verdict == "error", report.text
    assert re.search(f"({name.strip()}).* in .*{Path(__file__).name}:", report.reason), (
        report.reason
    )
    advice = instead.value if isinstance(instead, Refused) else instead
    assert report.reason.endswith(f"is not simulated: {advice}")


def test_a_process_of_an_import_is_advised_to_come_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user has written neither of them, and may not know that a library imports the module."""
    (tmp_path / "asks_at_import.py").write_text("import subprocess\nsubprocess.run(['true'])\n")
    (tmp_path / "imports_it.py").write_text("import asks_at_import\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def program(_: World) -> None:
        import imports_it  # type: ignore[import-not-found]  # noqa: F401

    reason = explore(program).reason
    assert "subprocess.Popen, by the import of imports_it, in " in reason, reason
    assert "import imports_it before the exploration, at the top of" in reason


@pytest.mark.parametrize(
    "ask",
    [
        lambda: ctypes.util.find_library("pthread"),
        lambda: platform.processor(),
        lambda: platform.architecture(),
        lambda: platform._Processor.from_subprocess(),  # type: ignore[attr-defined]
    ],
    ids=["find_library", "processor", "architecture", "its process"],
)
def test_what_the_library_asks_of_the_machine_is_answered(ask: Callable[[], object]) -> None:
    """By a process of its own, as of which CPU it is: that is another in no execution."""
    expected = ask()

    async def program(world: World) -> None:
        await world.outside("anything")
        world.check(ask() == expected, "as outside of executions")

    report = explore(program)
    assert report.verdict == "proved", report.text


def test_the_place_is_the_programs_line() -> None:
    """A library's and the standard library's frames say less than the one that called them."""

    async def program(_: World) -> None:
        with suppress(Exception):
            subprocess.run(["true"], check=True)  # noqa: ASYNC221

    text = " ".join(explore(program).text.split())
    assert "subprocess.Popen in program (" in text
    assert '`subprocess.run(["true"], check=True)' in text


def test_a_call_that_no_line_of_the_program_has_made_is_placed_as_well() -> None:
    """A task of its own has begun the thread: where the program stands is named, no library."""

    async def program(world: World) -> None:
        reads, writes = os.pipe()
        told = asyncio.create_task(asyncio.to_thread(os.read, reads, 10))
        try:
            await asyncio.sleep(0.01)
            os.write(writes, b"hey")
            assert await told == b"hey"
        finally:
            os.close(reads)
            os.close(writes)

    asyncio.run(program(None))  # type: ignore[arg-type]
    report = explore(program)
    told = " ".join(report.text.split())
    assert report.verdict == Verdict.ERROR, told
    assert "os.read in a thread, while program waits in program (" in told
    assert "test_outside.py" in told
    assert "outside.py:" not in told.replace("test_outside.py:", "")


def test_what_stays_within_the_process_is_done() -> None:
    """Files, locks that do not wait, and pairs of sockets work as on stock Python."""

    async def program(world: World) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            file.write_text("written")
            with file.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                world.check(held.read() == "written", "it is read")
        one, other = socket.socketpair()
        with one, other:
            other.sendall(b"x")
            world.check(one.recv(1) == b"x", "it is received")
        read, write = os.pipe()
        os.write(write, b"y")
        world.check(os.read(read, 1) == b"y", "it is read from a pipe")
        os.close(read)
        os.close(write)
        sys.audit("an event of the program's own")

    assert explore(program).verdict == "proved"


def test_outside_of_executions_nothing_is_refused() -> None:
    """The hook stays for the life of the process, and says nothing there."""
    before = vars(socket.socket).copy(), os.read, select.select, multiprocessing.Lock

    async def program(_: World) -> None:
        pass

    assert explore(program).verdict == "proved"
    assert (vars(socket.socket).copy(), os.read, select.select, multiprocessing.Lock) == before
    subprocess.run(["true"], check=True)
    outside._listen()
    assert outside._listen.cache_info().misses == 1


def test_another_thread_of_the_process_is_let_alone() -> None:
    """What is refused is asked by the thread that simulates, not by those beside it."""
    asked, answered = os.pipe(), os.pipe()
    ran: list[int] = []

    def beside(reads: Callable[[int, int], bytes] = os.read) -> None:
        reads(asked[0], 1)
        ran.append(subprocess.run(["true"], check=False).returncode)
        os.write(answered[1], b"x")

    # A thread of the system, which the exploration finds running.
    thread = threading.Thread(target=beside)
    thread.start()

    async def program(_: World) -> None:
        os.write(asked[1], b"x")
        while not select.select([answered[0]], [], [], 0)[0]:
            pass

    report = explore(program, max_executions=1)
    thread.join()
    for each in (*asked, *answered):
        os.close(each)
    assert report.verdict == "proved", report.text
    assert ran == [0]


FREED_LAST = """
import sys

import sim
from sim.kernel.isolation import outside

class Opens:
    def __del__(self, how=open, close=type(sys.stdin).close):
        close(how("/dev/null"))

async def program(world):
    await world.outside("it comes")

print(sim.explore(program).verdict)
outside.first_freed, outside.later_freed = Opens(), Opens()
"""


def test_the_end_of_python_is_not_disturbed(tmp_path: Path) -> None:
    """What is freed last may still raise an event, when the hook's own module is gone."""
    (tmp_path / "freed_last.py").write_text(FREED_LAST)
    command = [sys.executable, str(tmp_path / "freed_last.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=True)
    assert (ended.stdout, ended.stderr) == ("proved\n", "")
