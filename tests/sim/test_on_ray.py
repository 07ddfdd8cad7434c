"""`--cluster`, on a Ray cluster of three nodes on this machine: it comes to what one process does.

python3 -m uv run --isolated --group cluster pytest tests/sim/test_on_ray.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# It is imported by `OnRay`, with the settings that it reads as it is imported.
if find_spec("ray") is None:
    pytest.skip("python3 -m uv run --isolated --group cluster pytest …", allow_module_level=True)

from sim.bench.simulation.run import Batch, make_simulation, simulate
from sim.executors.batches import Batches, in_order
from sim.executors.on_ray import OnRay
from tests.limits import HANGS_S
from tests.sim.executors_of_tests import (
    ends_its_process_once,
    fails,
    own_process,
    square,
    waits_to_be_stopped,
)

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("onestream")

pytestmark = [
    pytest.mark.socket,
    # Of Ray's own, which the tests' settings would turn into errors.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def other_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of onestream, one line of which is another."""
    folder = tmp_path_factory.mktemp("other_code")
    for package in ("registry", "server", "sim"):
        shutil.copytree(ROOT / package, folder / package)
    with (folder / "registry" / "protocol.py").open("a") as file:
        file.write("\n# another line\n")
    return folder


@pytest.fixture(scope="module")
def cluster(other_code: Path) -> Iterator[str]:
    """The address of a cluster: two nodes, and one with other code."""
    command = [sys.executable, "-m", "tests.sim.ray_cluster", str(other_code)]
    program = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    try:
        address = program.stdout.readline().strip()
        assert address, "the cluster did not start; its error is above"
        yield address
    finally:
        program.communicate(timeout=HANGS_S)


def onestream(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run outside of the repository: what lies in the current folder comes first on each node."""
    command = [str(COMMAND), *arguments, "--json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANGS_S)


# What hangs on how fast it was.
TIMES = {"seconds", "seconds_per_second", "seeds_per_second"}


def found(printed: str) -> dict[str, Any]:
    """Each value that a command has printed, by its path, but for how long anything took."""
    return dict(leaves(json.loads(printed)))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """An empty list or object is a leaf, too."""
    if not isinstance(value, dict | list) or not value:
        yield path, value
        return
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in TIMES:
            yield from leaves(each, f"{path}/{key}")


COMMANDS = {
    "simulate": ("simulate", "--seeds", "40"),
    "a simulation that fails": ("simulate", "--registry", "quick_fix", "--seeds", "60"),
    "check": ("check", "--scenario", "second_prompt", "--level", "registry", "--budget", "600"),
    "deepen": ("deepen", "--registry", "original", "--budget", "600"),
    "explore": ("explore", "wrong_order.py:program", "--strategy", "depth-first"),
}

WRONG_ORDER = """\
import asyncio


async def program(world):
    order = []

    async def arrive(number):
        await world.outside(f"arrival {number}")
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(arrive(number))
    world.check(order != [1, 0, 3, 2], "the arrivals are not in the order 1, 0, 3, 2")
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_it_comes_to_what_one_process_comes_to(name: str, cluster: str, tmp_path: Path) -> None:
    """Digest, verdict, counts and counterexamples; and the node with other code is refused."""
    (tmp_path / "wrong_order.py").write_text(WRONG_ORDER)
    alone, nodes = (
        onestream(*COMMANDS[name], *workers, folder=tmp_path)
        for workers in (("--jobs", "1"), ("--cluster", cluster))
    )
    assert nodes.returncode == alone.returncode != 3, nodes.stderr
    assert found(nodes.stdout) == found(alone.stdout)
    (refusal,) = re.findall(r"^onestream: the node .* is refused: .*$", nodes.stderr, re.MULTILINE)
    assert "its code of onestream has the digest" in refusal
    assert "refused" not in alone.stderr


def test_a_batch_whose_worker_was_killed_is_done_again(cluster: str, tmp_path: Path) -> None:
    """On another worker, or one that begins in its place; the others' are not."""
    with closing(OnRay(cluster)) as executor:
        tasks = [partial(square, number) for number in range(5)]
        ends = partial(ends_its_process_once, str(tmp_path / "begun"))
        assert list(in_order(executor, [ends, *tasks])) == ["done", 0, 1, 4, 9, 16]


def test_a_simulation_loses_nothing_with_a_worker(cluster: str) -> None:
    """One is killed by its pid in the middle: digest, verdict, counts are those of one process."""
    simulation = make_simulation(level="server", registry="production", profile=None, client="both")
    killed: list[int] = []
    executor = OnRay(cluster)
    batches = Batches(executor)
    batches.submit(own_process)
    (process,) = wait_for(batches)

    def kill_one(done: Batch) -> None:
        if not killed:
            killed.append(process)
            os.kill(process, signal.SIGKILL)

    report = simulate(simulation, seeds=60, executor=lambda: executor, on_progress=kill_one)
    alone = simulate(simulation, seeds=60)
    assert killed
    assert (report.digest, report.verdict, report.seeds) == (alone.digest, alone.verdict, 60)
    assert report.happened.as_json() == alone.happened.as_json()


def wait_for(batches: Batches) -> list[Any]:
    values = []
    while len(batches):
        values += [value for _, value in batches.answers()]
    return values


def test_what_a_batch_raises_is_raised_here(cluster: str) -> None:
    """The error itself."""
    with closing(OnRay(cluster)) as executor, pytest.raises(LookupError, match="no such seed"):
        list(in_order(executor, [fails]))


def test_a_batch_that_runs_learns_that_it_is_stopped(cluster: str) -> None:
    """What it has found so far comes all the same, and so does that of one submitted later."""
    with closing(OnRay(cluster)) as executor:
        batches = Batches(executor)
        batches.submit(waits_to_be_stopped)
        executor.cancel()
        batches.submit(waits_to_be_stopped)
        assert wait_for(batches) == ["stopped", "stopped"]


def test_ctrl_c_ends_a_cluster_of_ones_own(tmp_path: Path) -> None:
    """`--cluster` alone starts it on loopback; nothing of it is left, and the report is printed."""
    command = [str(COMMAND), "simulate", "--seeds", "1000000", "--cluster", "--jobs", "1"]
    # Sockets below have short names.
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        program = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert program.stderr is not None
        line = program.stderr.readline()
        listening = listening_of(folder)
        os.killpg(program.pid, signal.SIGINT)
        printed, errors = program.communicate(timeout=HANGS_S)
        assert re.match(r"\d+/1000000 seeds", line), line + errors
        assert program.returncode == 2, errors
        assert "it was interrupted" in printed
        assert os.listdir(folder) == []
        assert listening
        assert processes_with(folder) == {}


def processes_with(folder: str) -> dict[int, str]:
    """The processes that name the folder in their commands, or have it from those that do."""
    found = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_text().replace("\0", " ")
            environment = (each / "environ").read_bytes()
        except OSError:
            continue
        if (folder in command or folder.encode() in environment) and int(each.name) != os.getpid():
            found[int(each.name)] = command
    return found


def listening_of(folder: str) -> bool:
    """Whether the cluster in the folder listens, and on loopback alone."""
    inodes = set()
    for pid in processes_with(folder):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(each)
            except OSError:
                continue
            if match := re.match(r"socket:\[(\d+)\]", target):
                inodes.add(match[1])
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.append(fields[1].partition(":")[0])
    # 127.0.0.1, also as one of IPv6.
    return bool(addresses) and all(each.endswith("0100007F") for each in addresses)
