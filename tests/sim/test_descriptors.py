"""A simulated socket has no descriptor of the system, whose answer no function may give for it."""

from __future__ import annotations

import io
import mmap
import os
import select
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, run

if sys.platform == "win32":
    pytest.skip("none of these functions is there", allow_module_level=True)

import fcntl
import termios

Misuse = Callable[[socket.socket], Any]

REFUSED: dict[str, Misuse] = {
    "fcntl.fcntl": lambda sock: fcntl.fcntl(sock, fcntl.F_GETFL),
    "fcntl.flock": lambda sock: fcntl.flock(sock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB),
    "fcntl.ioctl": lambda sock: fcntl.ioctl(sock, termios.FIONREAD, b"0000"),
    "fcntl.lockf": lambda sock: fcntl.lockf(sock, fcntl.LOCK_UN),
    "mmap.__new__": lambda sock: mmap.mmap(sock.fileno(), 1),
    "os.chmod": lambda sock: os.chmod(sock.fileno(), 0o600),
    "os.closerange": lambda sock: os.closerange(sock.fileno(), sock.fileno() + 1),
    "os.fchmod": lambda sock: os.fchmod(sock.fileno(), 0o600),
    "os.fstat": lambda sock: os.fstat(sock.fileno()),
    "os.fsync": lambda sock: os.fsync(sock.fileno()),
    "os.ftruncate": lambda sock: os.ftruncate(sock.fileno(), 0),
    "os.listdir": lambda sock: os.listdir(sock.fileno()),
    "os.lseek": lambda sock: os.lseek(sock.fileno(), 0, os.SEEK_CUR),
    "os.pread": lambda sock: os.pread(sock.fileno(), 1, 0),
    "os.stat": lambda sock: os.path.exists(sock.fileno()),
    "os.statvfs": lambda sock: os.statvfs(sock.fileno()),
    "os.ttyname": lambda sock: os.ttyname(sock.fileno()),
    "os.utime": lambda sock: os.utime(sock.fileno()),
    "signal.set_wakeup_fd": lambda sock: signal.set_wakeup_fd(sock.fileno()),
    "termios.tcgetattr": lambda sock: termios.tcgetattr(sock),
    "open": lambda sock: open(sock.fileno(), "rb", closefd=False).close(),
    "open (of os.fdopen)": lambda sock: os.fdopen(sock.detach(), "rb"),
    "open (of io.FileIO)": lambda sock: io.FileIO(sock.fileno(), closefd=False),
}

if hasattr(os, "listxattr"):
    REFUSED["os.listxattr"] = lambda sock: os.listxattr(sock.fileno())


@pytest.mark.parametrize("named", REFUSED)
def test_what_takes_a_descriptor_is_refused(named: str) -> None:
    """The system knows no such descriptor: its OSError refuted programs that hold on stock."""

    async def program(world: World) -> None:
        with socket.socket() as sock:
            REFUSED[named](sock)

    report = explore(program, strategy="natural")
    assert report.verdict == "error", report.text
    what = named.partition(" ")[0]
    assert report.reason.startswith(f"{what} of a simulated socket in "), report.reason
    assert "test_descriptors.py" in report.reason


def uses_a_pipe_and_a_file() -> None:
    reading, writing = os.pipe()
    assert os.fstat(reading) and fcntl.fcntl(reading, fcntl.F_GETFD)
    os.set_inheritable(reading, True)
    assert os.get_inheritable(reading)
    with open(writing, "wb") as file:
        file.write(b"a")
    with open(reading, "rb") as file, open(__file__, "rb") as source:
        assert file.read() == b"a"
        fcntl.flock(source, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert os.lseek(source.fileno(), 1, os.SEEK_SET) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_of_files_and_pipes_they_are_the_systems() -> None:
    """Only the numbers of simulated sockets are refused."""

    async def program(world: World) -> None:
        uses_a_pipe_and_a_file()

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)


async def is_inherited_where_it_is_said(world: World) -> None:
    with socket.socket() as sock:
        assert not sock.get_inheritable()
        sock.set_inheritable(True)
        with sock.dup() as other:
            assert os.get_inheritable(sock.fileno()) and not other.get_inheritable()
            os.set_inheritable(other.fileno(), True)
            os.set_inheritable(sock.fileno(), False)
            assert other.get_inheritable() and not sock.get_inheritable()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.get_inheritable()


def test_a_socket_is_inheritable_where_the_program_says_so() -> None:
    """Each descriptor for itself, as on stock: what was set was lost."""
    found = run(is_inherited_where_it_is_said)
    assert found.error is None and found.violation is None, (found.error, found.violation)


@pytest.mark.parametrize("named", ["set_wakeup_fd", "epoll"])
def test_the_refusal_of_what_trio_asks_for_names_trio(named: str) -> None:
    """Where `trio.run` was refuted by a TrioInternalError, with what to use instead."""

    def wakes(sock: socket.socket) -> None:
        signal.set_wakeup_fd(sock.fileno())

    def watches(sock: socket.socket) -> None:
        select.epoll().register(sock, select.EPOLLIN | select.EPOLLET)

    async def program(world: World) -> None:
        with socket.socket() as sock:
            (wakes if named == "set_wakeup_fd" else watches)(sock)

    if named == "epoll" and not hasattr(select, "epoll"):
        pytest.skip("no epoll")
    report = explore(program, strategy="natural")
    assert report.verdict == "error", report.text
    assert "Trio's loop asks for this, and is not simulated" in report.reason


def test_a_simulated_path_is_asked_about_where_a_descriptor_may_be_given_too() -> None:
    """`os.stat` takes both: a socket's path is its own, and its descriptor is refused."""

    async def asks(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            assert stat.S_ISSOCK(os.stat(path).st_mode)
            os.stat(sock.fileno())

    async def program(world: World) -> None:
        with tempfile.TemporaryDirectory() as folder:
            await asks(f"{folder}/socket")

    report = explore(program)
    assert report.verdict == "error"
    assert "os.stat of a simulated socket" in report.reason
