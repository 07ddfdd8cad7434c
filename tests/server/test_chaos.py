"""Chaos: workers are killed and stopped, connections cut, the store restarted and replaced.

    python -m pytest -m soak tests/server/test_chaos.py -s

JARVIS_CHAOS_S sets another time than 600 s for each store. The history of what the workers let in,
emitted and asked upstream is then checked for S1, S3 and S5.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.server import chaos_ollama, valkey_server
from tests.server.chaos_history import History, Line
from tests.server.chaos_ollama import StampedOllama
from tests.server.chaos_store import Proxy, Valkeys
from tests.server.support import run_async, until

SECONDS = float(os.environ.get("JARVIS_CHAOS_S", "600"))
WORKERS = 4
PAUSES_S = (0.3, 1.0, 2.0, 3.0, 4.0)
CUTS_S = (0.0, 0.0, 0.5, 2.5)
Trouble = Callable[[], Awaitable[None]]


class Workers:
    """Processes; one that is killed is replaced by one of another name."""

    def __init__(self, addresses: list[str], history: Path, done: Counter[str]) -> None:
        self._addresses = addresses
        self._history = history
        self._done = done
        self._count = 0
        self._chance = random.Random(7)
        self.processes: list[asyncio.subprocess.Process | None] = [None] * len(addresses)
        self._names = [""] * len(addresses)
        self._stopped: dict[int, float] = {}
        self.killed: dict[str, float] = {}

    async def start(self, place: int) -> None:
        self._count += 1
        self._names[place] = f"w{self._count}"
        command = [sys.executable, "-m", "tests.server.chaos_worker", self._addresses[place]]
        self.processes[place] = await asyncio.create_subprocess_exec(
            *command, self._names[place], str(self._history), str(self._count)
        )

    async def kill(self, place: int) -> None:
        process = self.processes[place]
        assert process is not None
        assert process.returncode is None, f"{self._names[place]} has ended by itself"
        # Before: others find out, and go on, sooner than this loop hears of it.
        self._note(place, "SIGKILL")
        self.killed[self._names[place]] = time.monotonic()
        process.kill()
        await process.wait()
        self._stopped.pop(place, None)

    async def trouble(self) -> None:
        self._wake()
        place = self._chance.randrange(len(self.processes))
        if self._chance.random() < 0.15:
            self._done["SIGKILL"] += 1
            await self.kill(place)
            await self.start(place)
        elif place not in self._stopped:
            self._done["SIGSTOP"] += 1
            self._note(place, "SIGSTOP")
            self._signal(place, signal.SIGSTOP)
            self._stopped[place] = time.monotonic() + self._chance.choice(PAUSES_S)

    def _wake(self, *, all_of_them: bool = False) -> None:
        for place, end in list(self._stopped.items()):
            if all_of_them or time.monotonic() >= end:
                self._note(place, "SIGCONT")
                self._signal(place, signal.SIGCONT)
                del self._stopped[place]

    def _note(self, place: int, what: str) -> None:
        with self._history.open("a") as file:
            file.write(f"{time.monotonic():.6f} {what} - 0 {self._names[place]}\n")

    def _signal(self, place: int, sig: int) -> None:
        process = self.processes[place]
        assert process is not None
        process.send_signal(sig)

    async def end(self) -> None:
        self._wake(all_of_them=True)
        for place in range(len(self.processes)):
            await self.kill(place)


async def _rage(workers: Workers, others: list[Trouble]) -> None:
    """A trouble each half a second or so: mostly of a worker, and now and then of the rest."""
    chance = random.Random(11)
    for place in range(len(workers.processes)):
        await workers.start(place)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        if others and chance.random() < 0.25:
            await chance.choice(others)()
        else:
            await workers.trouble()
    await workers.end()


def judge(name: str, history: History, done: Counter[str]) -> None:
    counts, waits = history.counts, history.waits_s
    print(f"\n{name}, {SECONDS:g} s: {dict(done)}")
    print(
        f"  history: {dict(counts)}; {history.overlaps} overlaps upstream, "
        f"{history.forgotten} of them of a stream that a store had forgotten"
    )
    p50, p90 = waits[len(waits) // 2], waits[len(waits) * 9 // 10]
    print(f"  admission: p50 {p50:.3f} s, p90 {p90:.3f} s, longest {waits[-1]:.3f} s")
    violations = list(history.violations())
    print(f"  {len(violations)} violations of S1, S3, S5")
    assert not violations, "\n".join(violations[:20])
    for what in ("let_in", "emit", "stopped", "timeout"):
        assert counts[what], f"no {what} in the history: nothing was tried"


@pytest.mark.socket
@pytest.mark.soak
def test_one_gate_is_open_whatever_becomes_of_workers_and_a_valkey(tmp_path: Path) -> None:
    """S1, S3 and S5 hold in the history of four workers, a Valkey, its restarts and fail-overs."""
    if valkey_server.program() is None:
        pytest.skip(valkey_server.MISSING)
    history, done = tmp_path / "history", Counter[str]()

    async def program() -> dict[str, float]:
        async with AsyncExitStack() as exits:
            folder = exits.enter_context(tempfile.TemporaryDirectory())
            valkeys = Valkeys(done, folder, history)
            await valkeys.start()
            exits.push_async_callback(valkeys.end)
            proxies = [Proxy(valkeys.port) for _ in range(WORKERS)]
            for proxy in proxies:
                server = await proxy.start()
                exits.callback(server.close)
            chance = random.Random(13)

            async def cut() -> None:
                done["cut"] += 1
                place, for_s = chance.randrange(WORKERS), chance.choice(CUTS_S)
                workers._note(place, f"cut_{for_s:g}_s")
                proxies[place].cut(for_s)

            addresses = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
            workers = Workers(addresses, history, done)
            troubles = [cut] * 6 + [valkeys.restart, valkeys.fail_over, valkeys.fail_over]
            await _rage(workers, troubles)
            return workers.killed

    killed = asyncio.run(program())
    judge("Valkey", History.read(history, killed), done)


@pytest.mark.socket
@pytest.mark.soak
def test_one_gate_is_open_whatever_becomes_of_workers_and_a_file(tmp_path: Path) -> None:
    """S1, S3 and S5 hold in the history of four workers that share a file of SQLite's."""
    history, done = tmp_path / "history", Counter[str]()

    async def program() -> dict[str, float]:
        address = str(tmp_path / "shared" / "sessions.sqlite")
        workers = Workers([address] * WORKERS, history, done)
        await _rage(workers, [])
        return workers.killed

    killed = asyncio.run(program())
    judge("SQLite", History.read(history, killed), done)


# ---- the judge of histories is right, and can fail ------------------------------------------


def test_who_takes_over_from_a_killed_worker_before_we_hear_of_its_end_overlaps_with_nothing(
    tmp_path: Path,
) -> None:
    """The kernel tells another worker at once; the time of a kill is one at which it still ran."""
    path = tmp_path / "history"

    class Killed:
        returncode = None

        def kill(self) -> None:
            now = time.monotonic()
            with path.open("a") as file:
                file.write(f"{now - 1:.6f} upstream s 1 w1.1\n{now:.6f} upstream s 2 w2.1\n")

        async def wait(self) -> None: ...

    workers = Workers([""], path, Counter())
    workers._names[0], workers.processes[0] = "w1", Killed()  # type: ignore[call-overload]
    asyncio.run(workers.kill(0))
    assert not list(History.read(path, workers.killed).violations())


def history_of(*texts: str) -> History:
    return History([Line.of(f"{at} {text}") for at, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (("let_in s 1 a.1", "let_in s 2 b.1", "emit s 1 a.1"), "S1"),
        (("let_in s 2 a.1", "asked s 1 b.1", "let_in s 1 b.1"), "S5"),
        (("let_in s 1 a.1", "let_in s 1 b.1"), "S5"),
        (("upstream s 1 a.1", "upstream s 2 b.1"), "S3"),
        (("upstream s 1 a.1", "upstream s 2 b.1", "timeout s 0 a.1"), "S3"),
    ],
)
def test_a_history_with_a_fault_is_seen(texts: tuple[str, ...], found: str) -> None:
    """Each of the three properties, by the smallest history that breaks it."""
    assert [each[:2] for each in history_of(*texts).violations()] == [found]


@pytest.mark.parametrize(
    "texts",
    [
        ("let_in s 1 a.1", "emit s 1 a.1", "let_in s 2 b.1", "emit s 2 b.1", "let_in t 1 a.2")[:4],
        ("upstream s 1 a.1", "over s 1 a.1", "upstream s 2 b.1"),
        ("upstream s 1 a.1", "timeout s 0 a.1", "upstream s 2 b.1"),
        ("upstream s 1 a.1", "upstream t 2 b.1"),
        ("upstream s 1 a.1", "restart - 0 store", "upstream s 2 b.1"),
    ],
)
def test_a_history_without_a_fault_is_none(texts: tuple[str, ...]) -> None:
    """In order, ended before the next, logged, of another session, or forgotten by the store."""
    assert list(history_of(*texts).violations()) == []


@pytest.mark.parametrize(
    ("logged", "order", "found"),
    [("a.1", "ab", []), ("b.1", "ab", ["S3"]), ("a.1", "ba", ["S3"]), ("b.1", "ba", [])],
)
def test_who_stood_still_before_its_call_is_the_one_that_is_logged(
    logged: str, order: str, found: list[str]
) -> None:
    """The older of two streams may begin its call later; who was let in first is who is late."""
    history = history_of(f"timeout s 0 {logged}", "upstream s 9 b.1", "upstream s 9 a.1")
    history.admitted = {f"{name}.1": place for place, name in enumerate(order)}
    assert [each[:2] for each in history.violations()] == found


def test_a_worker_that_was_killed_works_upstream_no_more() -> None:
    """Its calls to Ollama are over with it."""
    history = history_of("upstream s 1 a.1", "upstream s 2 b.1")
    history.killed = {"a": 0.5}
    assert list(history.violations()) == []


class HeldOllama(StampedOllama):
    """Makes its second piece when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = asyncio.Event()

    async def _pause(self) -> None:
        await self.may_go_on.wait()


@pytest.mark.socket
def test_a_call_is_over_when_it_is_first_seen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller had closed it before the next one began; that its time was up later is no end."""
    now = 1.0
    monkeypatch.setattr(chaos_ollama, "time", SimpleNamespace(monotonic=lambda: now))

    async def asked(port: int, name: str, lasts_s: float) -> socket.socket:
        """Has the start of its answer."""
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        text = json.dumps({"name": name, "session": "s", "lasts_s": lasts_s})
        body = json.dumps({"messages": [{"content": text}]}).encode()
        request = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, request)
        assert await loop.sock_recv(connection, 1)
        return connection

    async def program() -> None:
        nonlocal now
        ollama = HeldOllama()
        async with ollama.serving():
            (await asked(ollama.port, "older", lasts_s=1.0)).close()
            now = 1.9
            with await asked(ollama.port, "newer", lasts_s=0.0):
                now = 2.1
                ollama.may_go_on.set()
                older, newer = ollama.calls
                await until(lambda: older.connection.fileno() == -1, "the older one's last word")
        assert older.over == newer.begun == 1.9

    run_async(program())
