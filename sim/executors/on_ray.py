"""Workers on a cluster of Ray: `--cluster`. Each is an actor, which is a process of its own.

They are chosen when the cluster is connected: one for each processor of its nodes, on those that
run the same Python and the same code. Where one is lost, another begins on its node, if that lives.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from sim.executors.bare_process import BareProcess
from sim.executors.base import Answer, IsStopped, Task, WorkersLost
from sim.executors.environment import Environment
from sim.executors.processes import cores

START_S = 60.0
"""How long workers have to begin; those that have not by then are left out."""
_CONNECT_S = 5.0
# The least that Ray takes; what workers exchange is small, and does not go there.
_OBJECT_STORE_BYTES = 100_000_000
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else it says at each start that it will change something of accelerators.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Else each worker of a command that `uv run` has begun makes an environment of its own first.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Of a cluster on loopback alone, as we start it. Without it Ray listens on all interfaces, and
# takes every 127.0.0.1 for the machine's own address.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class ClusterRefused(ValueError):
    """There is no such cluster, or it cannot be used."""


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """actor: a handle of Ray's, of a `Remote`."""

    node: str
    actor: Any


class OnRay:
    """An `Executor`. To be closed, which also stops a cluster that it has started.

    address: HOST:PORT of a cluster; "" starts one here, on loopback. workers_max: None for as many
    as there are processors. program: the user's own, which every node needs. say: is told which
    nodes are left out, and why. Raises ClusterRefused.
    """

    def __init__(
        self,
        address: str = "",
        workers_max: int | None = None,
        *,
        program: str = "",
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        is_on_loopback = not address or _listens_on_loopback_alone(address)
        self._ray = _imported(_SETTINGS | _LOOPBACK if is_on_loopback else _SETTINGS)
        self._program = program
        self._say = say
        self._here = Environment.here(program)
        # Where this process draws its own nobody knows it; the workers have one in common.
        drawn = str(1 + secrets.randbelow(2**32 - 1))
        own = os.environ.get("PYTHONHASHSEED")
        self._hash_seed = drawn if own in (None, "", "random") else own
        self._temporary: str | None = None
        self._is_cancelled = False
        self._to_do: deque[tuple[int, Task]] = deque()
        self._idle: list[_Worker] = []
        # By the reference to what they will answer.
        self._running: dict[Any, tuple[_Worker, int]] = {}
        self._starting: dict[Any, _Worker] = {}
        try:
            self._connect(address, workers_max)
            self._start(workers_max)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        return len(self._idle) + len(self._running) + len(self._starting)

    def submit(self, number: int, task: Task) -> None:
        self._to_do.append((number, task))
        self._occupy()

    def answers(self, timeout_s: float) -> list[Answer]:
        references = [*self._running, *self._starting]
        if not references:
            raise WorkersLost(
                "the cluster has no worker left: each was lost, and none could begin in its place. "
                "Are its nodes alive? Start them again, and then this command"
            )
        self._ray.wait(references, num_returns=1, timeout=timeout_s)
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        answers = [self._taken(reference) for reference in done]
        self._occupy()
        return [answer for answer in answers if answer is not None]

    def cancel(self) -> None:
        if self._is_cancelled:
            # What is submitted since knows of it, and to be cancelled once more would lose it.
            return
        self._is_cancelled = True
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        for worker in self._all():
            # Ray has ended some of them itself.
            with suppress(Exception):
                self._ray.kill(worker.actor)
        self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # ---- the cluster ---------------------------------------------------------------------------

    def _connect(self, address: str, workers_max: int | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address:
            options["address"] = address
        else:
            self._temporary = tempfile.mkdtemp(prefix="onestream-ray-")
            options |= {
                "num_cpus": workers_max or cores(),
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": self._temporary,
            }
        try:
            self._ray.init(**options)
        except Exception as exc:  # Ray raises just that where a node does not start in time
            where = f"the cluster at {address}" if address else "a cluster on this machine"
            raise ClusterRefused(
                f"{where} cannot be used: {exc}. Ray and Python have to be of the same version on "
                f"all nodes and here; `ray status` says whether it lives"
            ) from exc

    def _start(self, workers_max: int | None) -> None:
        nodes = {
            each["NodeID"]: int(each["Resources"].get("CPU", 0))
            for each in self._ray.nodes()
            if each["Alive"]
        }
        places = [node for node, processors in nodes.items() for _ in range(processors)]
        for node in places[:workers_max]:
            self._begin_on(node)
        begun = list(self._starting)
        ready, late = self._ray.wait(begun, num_returns=len(begun), timeout=START_S)
        refusals = {self._begun(reference) for reference in ready} - {""}
        for reference in late:
            self._ray.kill(self._starting.pop(reference).actor)
        if late:
            refusals.add(
                f"{len(late)} workers had not begun after {START_S:.0f} s, and are left out: are "
                f"the cluster's processors taken by something else?"
            )
        if not self._idle:
            reasons = "; ".join(sorted(refusals)) or "its nodes have no processors (num_cpus)"
            raise ClusterRefused(f"no node of the cluster can be used: {reasons}")
        for refusal in sorted(refusals):
            self._say(refusal)

    def _begin_on(self, node: str) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(Remote).options(num_cpus=1, scheduling_strategy=there)
        actor = remote.remote(self._here.folder, self._hash_seed)
        self._starting[actor.environment.remote(self._program)] = _Worker(node, actor)

    def _begun(self, reference: Any) -> str:
        """Why a worker that has begun cannot be used, or ""."""
        worker = self._starting.pop(reference)
        try:
            why_not = self._here.why_not(self._ray.get(reference))
        except self._ray.exceptions.RayError as exc:
            why_not = f"a node is refused, since no worker begins on it: {_words(exc)}"
        if why_not:
            self._ray.kill(worker.actor)
        else:
            self._idle.append(worker)
        return why_not

    # ---- batches -------------------------------------------------------------------------------

    def _occupy(self) -> None:
        while self._idle and self._to_do:
            worker, (number, task) = self._idle.pop(), self._to_do.popleft()
            reference = worker.actor.do.remote(number, task, self._is_cancelled)
            self._running[reference] = worker, number

    def _taken(self, reference: Any) -> Answer | None:
        if reference in self._starting:
            refusal = self._begun(reference)
            if refusal:
                self._say(refusal)
            return None
        worker, number = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(reference)
        except errors.TaskCancelledError:
            # Ray drops what such a task returns.
            self._running[worker.actor.last.remote(number)] = worker, number
            return None
        except errors.RayTaskError as exc:
            # Raised outside of the task itself, as where it cannot be pickled.
            answer = Answer(number, error=exc)
        except errors.RayError as exc:
            self._replace(worker)
            return Answer(number, loss=_words(exc))
        self._idle.append(worker)
        return answer

    def _replace(self, worker: _Worker) -> None:
        with suppress(Exception):
            self._ray.kill(worker.actor)
        # On a node that is gone it fails to begin, later.
        self._begin_on(worker.node)

    def _all(self) -> list[_Worker]:
        running = [worker for worker, _ in self._running.values()]
        return [*self._idle, *running, *self._starting.values()]


def _imported(settings: dict[str, str]) -> Any:
    """Ray, which reads its settings as it is imported."""
    os.environ.update(settings)
    try:
        import ray
    except ModuleNotFoundError as exc:
        version = ".".join(map(str, sys.version_info[:3]))
        raise ClusterRefused(
            f"--cluster needs Ray, and this Python {version} has none: python3 -m pip install "
            f"'onestream[cluster]', which brings it for Python 3.11 to 3.13. On this machine "
            f"alone --jobs does the same without it"
        ) from exc
    return ray


def _listens_on_loopback_alone(address: str) -> bool:
    """Raises ClusterRefused if nothing listens: Ray would look for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        raise ClusterRefused(
            f"{address!r} is no address of a cluster: it is HOST:PORT, as `ray start --head` shows"
        )
    try:
        with socket.create_connection((host, int(port)), _CONNECT_S) as connection:
            is_loopback = ip_address(connection.getpeername()[0]).is_loopback
    except OSError as exc:
        raise ClusterRefused(
            f"nothing answers at {address}: {exc}. Is the cluster's head started (ray start "
            f"--head --port={port}), and can it be reached from here?"
        ) from exc
    return is_loopback and not _is_reachable(_own_address(), int(port))


def _own_address() -> str:
    """Of this machine, in its network, as Ray finds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            # This sends nothing.
            asked.connect(("192.0.2.1", 80))
        except OSError:
            return "127.0.0.1"
        address: str = asked.getsockname()[0]
        return address


def _is_reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _words(error: Exception) -> str:
    """The first line of what Ray says, which goes on for a screen."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


# ---- in a worker -----------------------------------------------------------------------------


class Remote:
    """The life of a worker. Ray calls its methods in the process's main thread, one by one.

    The work is done in a process of its own (`bare_process.py`).
    """

    def __init__(self, folder: str, hash_seed: str) -> None:
        import ray

        self._context = ray.get_runtime_context()
        self._last: Answer | None = None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._process = BareProcess(folder, hash_seed)

    def environment(self, program: str) -> Environment:
        """Raises what keeps it from being known."""
        answer = self._process.do(0, partial(_environment, program), lambda: False)
        if answer.loss or answer.error is not None:
            raise answer.error or RuntimeError(answer.loss)
        environment: Environment = answer.value
        return environment

    def do(self, number: int, task: Task, is_cancelled: bool) -> Answer:
        self._last = self._process.do(
            number, task, lambda: is_cancelled or self._context.is_canceled()
        )
        return self._last

    def last(self, number: int) -> Answer:
        """What a batch has come to that was cancelled, perhaps before it began."""
        if self._last is None or self._last.number != number:
            return Answer(number, loss="it was cancelled before it began")
        return self._last


def _environment(program: str, is_stopped: IsStopped) -> Environment:
    return Environment.here(program)
