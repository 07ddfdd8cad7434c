"""Chaos with `onestream serve --workers` itself, its supervisor included.

    python -m pytest -m soak tests/server/test_chaos_serve.py -s

JARVIS_CHAOS_S sets another time than 600 s for each store. Workers and the supervisor are killed
and stopped, restarted one after the other, added and taken away; the store is cut off, restarted
and replaced. What clients were sent and what Ollama was asked is then checked for S1, S3 and S5;
every client has to have its answer, but those of a process that was killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from registry.wording import TIMEOUT_ON_CANCEL
from tests.server import valkey_server
from tests.server.chaos_clients import CUT, Asked, Clients
from tests.server.chaos_history import History, Line
from tests.server.chaos_ollama import StampedOllama
from tests.server.chaos_store import Proxy, Valkeys
from tests.server.support import PATIENCE_S, REPOSITORY, free_port, until

SECONDS = float(os.environ.get("JARVIS_CHAOS_S", "600"))
WORKERS = 3
PAUSES_S = (0.3, 1.0, 2.0, 3.0, 4.0)
CUTS_S = (0.0, 0.0, 0.5, 2.5)
LIMITS = {
    "JARVIS_LEASE_SECONDS": "1.5",
    "JARVIS_LEASE_MARGIN_SECONDS": "0.2",
    "JARVIS_GRACE_SECONDS": "0.5",
    "JARVIS_QUEUE_SECONDS": "5",
    "JARVIS_SESSIONS_CALL_SECONDS": "0.3",
}
# What a client may be told; anything else is a fault.
ENDS = {
    "whole",
    "has left",
    "superseded",
    "400 superseded",
    "cancelled",
    "400 cancelled",
    "shutting_down",
    "503 shutting_down",
    "session_lease_lost",
    "503 session_lease_lost",
    "503 sessions_unavailable",
    "sessions_unavailable",
    "409 session_busy",
    "queue_timeout",
    "503 queue_timeout",
    "429 queue_full",
}
# A stream whose client never got its name; its session stands behind it.
_NOBODY = "?"
Trouble = Callable[[], Awaitable[None]]


class Served:
    """`onestream serve --workers`, and what it has printed."""

    def __init__(self, sessions: str, ollama: str, done: Counter[str]) -> None:
        self._environment = {
            **{name: each for name, each in os.environ.items() if not name.startswith("JARVIS_")},
            **LIMITS,
            "JARVIS_SESSIONS": sessions,
            "OLLAMA_HOST": ollama,
            "PYTHONUNBUFFERED": "1",
        }
        self.port = free_port()
        self.lines: list[str] = []
        # Of every worker that is thought to live; and until when one is stopped.
        self._pids: list[int] = []
        self._stopped: dict[int, float] = {}
        # While a connection may break: from a kill until there is a server again.
        self.broken: list[tuple[float, float]] = []
        self._done = done
        self._chance = random.Random(7)
        self._workers = WORKERS

    async def start(self) -> None:
        """Again and again where it is refused, as a service manager does: the store may be away."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._started():
                    assert "the store of sessions" in self.lines[-1], self.lines[-20:]
                    self._done["refused at the start"] += 1
                    await asyncio.sleep(0.2)
        except TimeoutError:
            said = "\n".join(self.lines[-20:])
            raise AssertionError(f"it did not start within {PATIENCE_S:g} s:\n{said}") from None

    async def _started(self) -> bool:
        """Whether it listens; else it has ended, with its reason as the last line."""
        command = ("-m", "sim.cli", "serve", "--workers", str(WORKERS), "--port", str(self.port))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=REPOSITORY,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
        )
        self._workers = WORKERS
        self._reading = asyncio.ensure_future(self._read(self._process))
        said = len(self.lines)

        def listens() -> bool:
            return any(line.startswith("onestream listens on") for line in self.lines[said:])

        await until(lambda: listens() or self._process.returncode is not None, "it listens or ends")
        if self._process.returncode is None:
            return True
        await self._is_over()
        return False

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            line = raw.decode().rstrip()
            self.lines.append(line)
            found = re.match(r"sessions_shared worker=\S*-(\d+)-\w+ ", line)
            if found:
                self._pids.append(int(found[1]))

    async def trouble(self) -> None:
        self.wake()
        kinds: dict[Trouble, int] = {
            self._stop_one: 20,
            self._kill_one: 6,
            self._restart_all: 2,
            self._more_or_fewer: 2,
            self._stop_supervisor: 2,
            self._kill_supervisor: 1,
        }
        await self._chance.choices(list(kinds), list(kinds.values()))[0]()

    async def _stop_one(self) -> None:
        pid = self._one()
        if pid is not None and pid not in self._stopped and self._signal(pid, signal.SIGSTOP):
            self._done["SIGSTOP"] += 1
            self._stopped[pid] = time.monotonic() + self._chance.choice(PAUSES_S)

    async def _kill_one(self) -> None:
        pid = self._one()
        begun = time.monotonic()
        if pid is not None and self._signal(pid, signal.SIGKILL):
            self._done["SIGKILL"] += 1
            self._stopped.pop(pid, None)
            self.broken.append((begun, time.monotonic() + 1))

    async def _restart_all(self) -> None:
        self._done["SIGHUP"] += 1
        self._process.send_signal(signal.SIGHUP)

    async def _more_or_fewer(self) -> None:
        is_more = self._workers <= WORKERS
        self._workers += 1 if is_more else -1
        self._done["SIGTTIN" if is_more else "SIGTTOU"] += 1
        self._process.send_signal(signal.SIGTTIN if is_more else signal.SIGTTOU)

    async def _stop_supervisor(self) -> None:
        self._done["SIGSTOP of the supervisor"] += 1
        self._process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.choice(PAUSES_S))
        self._process.send_signal(signal.SIGCONT)

    async def _kill_supervisor(self) -> None:
        """Its workers end by themselves; then it is started anew."""
        self._done["SIGKILL of the supervisor"] += 1
        begun = time.monotonic()
        self.wake(all_of_them=True)
        self._process.kill()
        await self._is_over()
        self.lines, before = [], self.lines
        await self.start()
        self.lines = before + self.lines
        self.broken.append((begun, time.monotonic()))

    async def _is_over(self) -> None:
        """No process of it is left: they all have its output open."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reading
            await self._process.wait()
        self._pids, self._stopped = [], {}

    def _one(self) -> int | None:
        self._pids = [pid for pid in self._pids if self._signal(pid, 0)]
        return self._chance.choice(self._pids) if self._pids else None

    def _signal(self, pid: int, number: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def wake(self, *, all_of_them: bool = False) -> None:
        for pid, end in list(self._stopped.items()):
            if all_of_them or time.monotonic() >= end:
                self._signal(pid, signal.SIGCONT)
                del self._stopped[pid]

    async def end(self) -> int:
        """By SIGTERM; its exit code."""
        self.wake(all_of_them=True)
        self._process.send_signal(signal.SIGTERM)
        await self._is_over()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def rage(served: Served, others: list[Trouble]) -> None:
    chance = random.Random(11)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        if others and chance.random() < 0.25:
            await chance.choice(others)()
        else:
            await served.trouble()
    served.wake(all_of_them=True)


def history_of(prompts: list[Asked], ollama: StampedOllama, served: Served) -> list[Line]:
    lines = []
    names = {each.trace_id: each.name for each in prompts if each.trace_id}
    for each in prompts:
        if each.token and each.let_in:
            lines.append(Line(each.at, "asked", each.session, each.token, each.name))
            lines.append(Line(each.let_in, "let_in", each.session, each.token, each.name))
            lines += [Line(at, "emit", each.session, each.token, each.name) for at in each.pieces]
    for call in ollama.calls:
        # Its gate was asked before, at a time that nobody knows: the token says nothing.
        begun = Line(call.begun, "upstream", call.session, sys.maxsize, call.name)
        lines.append(begun)
        if call.over is not None:
            lines.append(Line(call.over, "over", call.session, 0, call.name))
    for text in served.lines:
        event, _, rest = text.partition(" ")
        if event == TIMEOUT_ON_CANCEL:
            fields = dict(word.partition("=")[::2] for word in rest.split())
            session = fields["session"].rpartition("/")[2]
            name = names.get(fields["trace"], f"{_NOBODY}{session}")
            # The log is written by a thread of its own, later: that it was, is what is asked.
            lines.append(Line(0.0, "timeout", session, 0, name))
    return lines


def admitted_in(prompts: list[Asked], lines: list[str]) -> dict[str, int]:
    """The place of each in the log among those that were let in.

    A line that comes late makes its stream newer than it is, and a fault be found where is none.
    """
    names = {each.trace_id: each.name for each in prompts if each.trace_id}
    found = (re.match(r"stream_start trace=(\S+)", text) for text in lines)
    started = [names[each[1]] for each in found if each and each[1] in names]
    return {name: place for place, name in enumerate(started)}


def judge(
    name: str,
    prompts: list[Asked],
    ollama: StampedOllama,
    served: Served,
    done: Counter[str],
    store: list[Line],
) -> None:
    lines = sorted([*history_of(prompts, ollama, served), *store], key=lambda line: line.at)
    history = History(lines, admitted=admitted_in(prompts, served.lines))
    ends = Counter(each.end for each in prompts)
    print(f"\n{name}, {SECONDS:g} s: {dict(done)}")
    print(f"  {len(prompts)} prompts: {dict(ends.most_common())}")
    print(f"  history: {dict(history.counts)}; {history.overlaps} overlaps upstream")
    waits = sorted(each.let_in - each.at for each in prompts if each.let_in)
    p50, p90 = waits[len(waits) // 2], waits[len(waits) * 9 // 10]
    print(f"  first content: p50 {p50:.3f} s, p90 {p90:.3f} s, longest {waits[-1]:.3f} s")
    violations = list(without_nameless(history.violations(), prompts, lines))
    print(f"  {len(violations)} violations of S1, S3, S5")
    assert not violations, "\n".join(
        told_of(each, prompts, served, ollama) for each in violations[:20]
    )
    for each in prompts:
        if each.is_broken or each.end == CUT:
            assert was_killed(each, served.broken), f"broken, and nobody was killed: {each}"
        else:
            assert each.end in ENDS, each
    assert not any("Traceback" in line for line in served.lines), served.lines
    for what in ("let_in", "emit", "upstream"):
        assert history.counts[what], f"no {what} in the history: nothing was tried"


def told_of(violation: str, prompts: list[Asked], served: Served, ollama: StampedOllama) -> str:
    """With what its streams came to, and what the log says of them."""
    names = set(re.findall(r"trace_id='([\w.]+)'", violation))
    lines = [violation]
    for call in ollama.calls:
        if call.name in names:
            over = "never" if call.over is None else f"{call.over:.4f}"
            lines.append(f"{call.name} upstream from {call.begun:.4f} to {over}")
    for each in prompts:
        if each.name in names:
            lines.append(f"{each.name} of {each.at:.3f} to {each.over:.3f}: {each.end}")
            lines += [text for text in served.lines if each.trace_id and each.trace_id in text]
    return "\n    ".join(lines)


def was_killed(prompt: Asked, broken: list[tuple[float, float]]) -> bool:
    return any(since < prompt.over and prompt.at < end for since, end in broken)


def without_nameless(
    violations: Iterable[str], prompts: list[Asked], lines: list[Line]
) -> list[str]:
    """A client that never got a head does not know the name under which its stream was logged."""
    named = {each.name for each in prompts if each.trace_id}
    logged = {line.session for line in lines if line.trace_id.startswith(_NOBODY)}
    kept = []
    for text in violations:
        found = re.search(r"; Line\(.*session='(\w+)'.*trace_id='([\w.]+)'\)", text)
        if text.startswith("S3") and found and found[2] not in named and found[1] in logged:
            continue
        kept.append(text)
    return kept


async def played(
    sessions: str, others: list[Trouble], done: Counter[str]
) -> tuple[list[Asked], StampedOllama, Served]:
    ollama = StampedOllama()
    async with ollama.serving():
        served = Served(sessions, f"127.0.0.1:{ollama.port}", done)
        try:
            await served.start()
            clients = Clients(f"http://127.0.0.1:{served.port}", 5)
            asking = asyncio.create_task(clients.ask_until(time.monotonic() + SECONDS))
            await rage(served, others)
            await asking
            assert await served.end() == 0
        finally:
            served.kill()
    return clients.prompts, ollama, served


@pytest.mark.socket
@pytest.mark.soak
def test_serve_keeps_its_promise_with_a_file(tmp_path: Path) -> None:
    """S1, S3 and S5 hold for the clients of `serve --workers` on SQLite, and each is answered."""
    done = Counter[str]()
    sessions = f"sqlite:{tmp_path / 'shared' / 'sessions.sqlite'}"
    judge("SQLite", *asyncio.run(played(sessions, [], done)), done, [])


@pytest.mark.socket
@pytest.mark.soak
def test_serve_keeps_its_promise_with_a_valkey(tmp_path: Path) -> None:
    """The same on a Valkey that is cut off, restarts and fails over."""
    if valkey_server.program() is None:
        pytest.skip(valkey_server.MISSING)
    done, store = Counter[str](), tmp_path / "store"

    async def program() -> tuple[list[Asked], StampedOllama, Served]:
        async with AsyncExitStack() as exits:
            folder = exits.enter_context(tempfile.TemporaryDirectory())
            valkeys = Valkeys(done, folder, store)
            await valkeys.start()
            exits.push_async_callback(valkeys.end)
            proxy = Proxy(valkeys.port)
            server = await proxy.start()
            exits.callback(server.close)
            chance = random.Random(13)

            async def cut() -> None:
                done["cut"] += 1
                proxy.cut(chance.choice(CUTS_S))

            troubles = [cut] * 6 + [valkeys.restart, valkeys.fail_over, valkeys.fail_over]
            url = f"redis://127.0.0.1:{proxy.port}/0"
            return await played(url, troubles, done)

    found = asyncio.run(program())
    judge("Valkey", *found, done, [Line.of(text) for text in store.read_text().splitlines()])
