"""`onestream explore`: programs of a user's, by name, from the command line."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim import explore, replay
from sim.cli import main
from sim.exploration.progress import Progress
from sim.exploration.request import Request, explored
from sim.export.sources import NotExportable
from sim.kernel.schedule import Bounds
from tests.sim.documents import programs, read

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str]]

SLOTS = """\
import asyncio


async def leaks(world):
    slots = asyncio.Semaphore(1)

    async def answer():
        await slots.acquire()
        await world.outside("the model answers")
        slots.release()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    await world.outside("the client leaves")
    task.cancel()
    await asyncio.wait([task])
    world.check(not slots.locked(), "the slot is free again")


def waits(seconds):
    async def program(world):
        await world.outside("it comes", latest=seconds)
        world.reached("it came")

    return program


async def leaves_one_behind(world):
    async def fails():
        raise KeyError("nobody looks")

    asyncio.create_task(fails())
    await asyncio.sleep(1)


async def asks_for_a_socket(world):
    await asyncio.open_connection("192.0.2.1", 9)


async def yields_often(world):
    for _ in range(1000):
        await asyncio.sleep(0)


async def sleeps_long(world):
    await asyncio.sleep(5000)


counted = 0


async def counts(world):
    global counted
    counted += 1
    await world.outside("a", latest=1)
    await world.outside("b", latest=1)
    assert counted < 2


async def lasts(world):
    await asyncio.sleep(1000)


async def holds_often(world):
    await asyncio.gather(*(world.outside(f"event {number}") for number in range(3)))


holds = waits(1)
number = 3
"""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs `onestream` in a folder with the module `slots`; its exit code, and all that it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "slots.py").write_text(SLOTS)
    before = set(sys.modules)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield run
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def command_in(text: str) -> list[str]:
    """The arguments of the command that a counterexample ends with."""
    (command,) = re.findall(r"^replay: onestream (.*)$", text, re.MULTILINE)
    return [each.strip("'") for each in command.split(" ", 1)]


@pytest.mark.parametrize("name", ["slots:leaks", "slots.py:leaks", "in a folder/slots.py:leaks"])
def test_a_program_is_refuted_and_its_command_replays(name: str, run: Run, tmp_path: Path) -> None:
    """By module or by file, also in another folder; exit code 1, then 1 by the printed command."""
    if "/" in name:
        (tmp_path / "in a folder").mkdir()
        (tmp_path / "slots.py").rename(tmp_path / "in a folder/slots.py")
    code, printed = run("explore", name)
    assert code == 1, printed
    assert "violated at 0.000 s: the slot is free again" in printed
    code, again = run(*command_in(printed))
    assert code == 1, again
    assert "violated at 0.000 s: the slot is free again" in again


def test_a_program_is_proved(run: Run) -> None:
    """Also one that a function of the module has made, by the name that it has there."""
    code, printed = run("explore", "slots:holds", "--label", "it came")
    assert code == 0, printed
    assert printed.splitlines()[0].startswith("proved: every schedule")
    assert "labels reached: it came" in printed


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.thorough)])
@pytest.mark.fresh_copies
def test_state_that_survives_is_named_with_any_jobs(jobs: str, run: Run) -> None:
    """A counter of the module refutes nothing, and with --isolate the program is proved."""
    name = "slots:counts"
    code, printed = run("explore", name, "--jobs", jobs, "--strategy", "depth-first")
    assert code == 2, printed
    assert "state survived the first execution: slots.counted was 0, then 1" in printed
    del sys.modules["slots"]
    code, printed = run("explore", name, "--jobs", jobs, "--isolate", "--strategy", "depth-first")
    assert code == 0, printed


def test_what_is_missing_makes_it_inconclusive(run: Run) -> None:
    """A label that nothing reaches, or a limit that comes first: exit code 2, and which it was."""
    code, printed = run("explore", "slots:holds", "--label", "never")
    assert (code, "labels never reached: never" in printed) == (2, True)
    code, printed = run("explore", "slots:holds", "--executions", "1")
    assert (code, "the limit of 1 execution was reached" in printed) == (2, True)


def test_an_execution_that_outlasts_the_horizon_can_be_given_a_longer_one(run: Run) -> None:
    """As horizon_s of `explore`; the certificate names what else decides, besides the code."""
    code, printed = run("explore", "slots:lasts")
    assert (code, "not within horizon_s=600" in printed) == (1, True), printed
    code, printed = run("explore", "slots:lasts", "--horizon", "2000")
    assert (code, "horizon_s=2000" in printed) == (0, True), printed
    assert ", PYTHONHASHSEED=" in printed
    assert ", entropy_seed=0" in printed


# What the command has in other words, or not at all: `watch` is for programs, which Ctrl-C ends.
OTHER_WORDS = {
    "program": "PROGRAM",
    "strategy": "--strategy",
    "budget_s": "--budget",
    "max_executions": "--executions",
    "labels": "--label",
    "lateness_s": "--lateness",
    "horizon_s": "--horizon",
    "thread_lines": "--no-thread-lines",
    "watch": None,
}


def test_the_command_takes_what_explore_takes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Each parameter has its option, of its name but for units."""
    with pytest.raises(SystemExit):
        main(["explore", "--help"])
    shown = capsys.readouterr().out
    for name in inspect.signature(explore).parameters:
        option = OTHER_WORDS.get(name, f"--{name.replace('_', '-')}")
        assert option is None or f" {option}" in shown, name
    words = " ".join(shown.replace("-\n", "-").split())
    for name in ("lateness_s", "passes_max", "spin_max", "horizon_s", "step_lines_max"):
        option = OTHER_WORDS.get(name, f"--{name.replace('_', '-')}")
        said = words.rpartition(f" {option} ")[2]
        assert said.partition("default ")[2].startswith(f"{getattr(Bounds, name):.10g}"), name


@pytest.mark.parametrize(
    ("program", "option"), [("yields_often", "--spin-max"), ("sleeps_long", "--horizon")]
)
def test_what_was_broken_off_says_how_to_go_on(run: Run, program: str, option: str) -> None:
    """The option that its text names lets a program end that only takes longer."""
    code, printed = run("explore", f"slots:{program}")
    advice = " ".join(printed.split())
    (value,) = re.findall(rf"or {option} (\d+)", advice)
    name = {"--spin-max": "spin_max", "--horizon": "horizon_s"}[option]
    assert f"explore(…, {name}={value}), @pytest.mark.explore({name}={value})" in advice
    assert (code, run("explore", f"slots:{program}", option, value)[0]) == (1, 0)


@pytest.mark.parametrize("option", ["--lateness=-1", "--lateness=inf", "--entropy-seed=x"])
def test_a_bound_that_makes_no_sense_is_bad_usage(
    run: Run, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 and a sentence, before anything is explored."""
    with pytest.raises(SystemExit) as ended:
        main(["explore", "slots:leaks", option])
    assert ended.value.code == 3
    assert "number" in capsys.readouterr().err


def test_a_claim_by_departures_names_one_bound(run: Run) -> None:
    """That the next one was begun is no part of what is proved."""
    code, printed = run(
        "explore", "slots:holds_often", "--strategy", "departures", "--executions", "100"
    )
    claim = " ".join(printed.partition("\n\n")[0].split())
    assert code == 0, printed
    assert claim.startswith("proved: every schedule with up to "), claim
    assert claim.endswith(", not to the end)"), claim


def test_what_is_not_simulated_is_an_error(run: Run) -> None:
    """Exit code 3, as everywhere."""
    code, printed = run("explore", "slots:asks_for_a_socket")
    assert (code, printed.startswith("error: ")) == (3, True), printed


def test_the_json_object_has_what_the_report_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategy and seed come from the command line, and the counterexample replays."""
    # So that no other seed is tried where nothing is violated.
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    arguments = ("--strategy", "random", "--seed", "3", "--json")
    code, printed = run("explore", "slots:leaks", *arguments)
    found: dict[str, Any] = json.loads(printed)
    own = explore(sys.modules["slots"].leaks, strategy="random", seed=3)
    assert (code, found["verdict"], found["strategy"]) == (1, "refuted", "random")
    assert found["executions"] == own.executions
    assert run("replay", found["counterexample"]["schedule"])[0] == 1
    assert found["unretrieved"] is None
    code, printed = run("explore", "slots:leaves_one_behind", "--json")
    left = json.loads(printed)["unretrieved"]
    assert (code, len(left["seen"])) == (0, 1)
    assert "KeyError" in left["seen"][0]
    assert run("replay", left["schedule"])[0] == 0


def test_several_processes_find_the_same(run: Run) -> None:
    """`--jobs 2` comes to the verdict, the count and the schedule of one process."""
    for program in ("slots:leaks", "slots:holds"):
        alone, both = (
            json.loads(run("explore", program, "--json", "--strategy", "depth-first", *jobs)[1])
            for jobs in ((), ("--jobs", "2"))
        )
        for each in (alone, both):
            del each["seconds"]
        assert both == alone


def test_several_processes_by_default(run: Run) -> None:
    """Without a strategy they divide depth-first search, after the random executions."""
    code, printed = run("explore", "slots:holds", "--json", "--jobs", "2")
    found = json.loads(printed)
    assert (code, found["claim"]) == (0, "every schedule")
    assert found["strategy"] == "depth-first, after 10 random"


BAD: dict[str, tuple[str, str]] = {
    "slots": ("'slots' names no program", "write MODULE:PROGRAM or FILE.py:PROGRAM"),
    "slots:": ("'slots:' names no program", "write MODULE:PROGRAM or FILE.py:PROGRAM"),
    "slots:leak": ("slots has no 'leak'", "its async functions are leaks, leaves_one_behind"),
    "slots:leaks.x": ("slots has no 'leaks.x'", "its async functions are leaks"),
    "slots:number": ("is no function, but of type int", "an `async def` that takes the world"),
    "none:x": ("there is no module 'none'", "on PYTHONPATH"),
    "none.at.all:x": ("there is no module 'none'", "FILE.py:PROGRAM"),
    "none.py:x": ("there is no file none.py", "as seen from "),
    "lacks:x": ("No module named 'nobody_has_this'", "lacks.py:1)"),
    "raises:x": ("module raises cannot be imported: RuntimeError: no", "raises.py:2)"),
    "ends:x": ("SystemExit: 4", "below `if __name__ == '__main__':`"),
    "wrong:x": ("module wrong cannot be imported: SyntaxError", "line 1"),
    "json.py:x": ("another module is called json", "Give the file another name"),
    "slots:waits.<locals>.program": ("was made within a function", "counterexample.replay"),
    "__main__:program": ("is one of a script", "counterexample.replay"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_says_what_to_do(name: str, run: Run, tmp_path: Path) -> None:
    """Exit code 3 and a sentence without a traceback: the name, what is wrong, and what to do."""
    (tmp_path / "lacks.py").write_text("import nobody_has_this\n")
    (tmp_path / "raises.py").write_text("x = 1\nraise RuntimeError('no')\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(4)\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    (tmp_path / "json.py").write_text("x = 1\n")
    code, printed = run("explore", name)
    assert code == 3
    for words in BAD[name]:
        assert words in " ".join(printed.split())
    assert "Traceback" not in printed


def test_a_file_of_a_package_has_its_relative_imports(run: Run, tmp_path: Path) -> None:
    """Its module is found from the folder on which the package lies, as pytest does."""
    package = tmp_path / "elsewhere/shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "purse.py").write_text("coins = 0\n")
    (package / "theft.py").write_text(
        "from .purse import coins\n\nasync def program(world):\n    world.check(coins, 'coins')\n"
    )
    code, printed = run("explore", "elsewhere/shop/theft.py:program")
    assert code == 1, printed
    assert run(*command_in(printed))[0] == 1


def test_an_unknown_strategy_is_bad_usage(run: Run) -> None:
    """With the names that there are."""
    code, printed = run("explore", "slots:leaks", "--strategy", "luck")
    assert code == 3
    assert "strategy 'luck' is not known; there are " in " ".join(printed.split())


def test_the_sample_of_the_manual(run: Run, tmp_path: Path) -> None:
    """What sim/README.md shows of `onestream explore` is printed for the program before it."""
    (tmp_path / "bank.py").write_text(programs("sim/README.md")[0].partition("report =")[0])
    (shown,) = re.findall(
        r"^\$ onestream explore (.*)\n((?:.+\n|\n)*?)```", read("sim/README.md"), re.M
    )
    _, printed = run("explore", shown[0])

    def lasting(text: str) -> str:
        text = re.sub(r"CPython .*, code \w+, PYTHONHASHSEED=\w+", "CPython", text)
        return re.sub(r"/\w+/natural|\d+\.\d s\)", "", text)

    for line in shown[1].splitlines():
        assert line == "…" or lasting(line) in lasting(printed), line


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--budget", "nan"), "nan is not a positive number of seconds"),
        (("--budget", "soon"), "'soon' is not a positive number of seconds"),
        (("--seed", "x"), "'x' is not a whole number, 0 or more"),
        (("--seed", "-1"), "-1 is negative"),
        (("--jobs", "0"), "0 is not a positive number"),
        (("--executions", "1.5"), "'1.5' is not a positive whole number"),
    ],
)
def test_an_option_without_sense_says_what_is_allowed(
    option: tuple[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the value, and without names of our functions."""
    with pytest.raises(SystemExit) as caught:
        main(["explore", "slots.py:leaks", *option])
    assert caught.value.code == 3
    assert f"argument {option[0]}: {says}" in capsys.readouterr().err


ORDERED_BY_HASH = """\
async def program(world):
    first = min(enumerate({"a", "b", "c", "d"}))[1]
    if world.choose("which", "abcd") == first:
        world.choose("again", "ab")
    world.check(first != "SEEN", "another is first")


async def takes_another_path(world):
    if "SEEN" == min(enumerate({"a", "b", "c", "d"}))[1]:
        assert world.choose("which", "ab") == "a"
"""


@pytest.mark.socket
@pytest.mark.parametrize("name", ["program", "takes_another_path"])
@pytest.mark.thorough
def test_a_replay_under_another_hash_seed_tells_the_cause(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No schedule decides the order of a set of strings: what does not come back is tried with it.

    It comes back where the process has the seed that is named."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ordered.py"

    def onestream(seed: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "sim.cli", *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    program = "import sys; print(min(enumerate({'a', 'b', 'c', 'd'}))[1])"
    first = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in range(3)
    ]
    other = next(seed for seed in range(3) if first[seed] != first[1])
    file.write_text(ORDERED_BY_HASH.replace("SEEN", first[1]))
    printed = onestream("1", "explore", f"ordered.py:{name}")[1]
    schedule = re.search(r"onestream replay (\S+)", printed)
    assert schedule is not None, printed
    code, printed = onestream(str(other), "replay", schedule[1])
    assert code != 1, printed
    assert "order of a set of strings" in printed
    assert onestream("1", "replay", schedule[1])[0] == 1
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.setattr(replay, "_SEEDS_TRIED", 2)
    why = replay.why_it_may_not_come_back(schedule[1])
    assert re.search("with PYTHONHASHSEED=[01] the violation comes back", why)


def test_an_export_names_the_hash_seed_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that would show no violation is refused where another seed brings that back."""
    (tmp_path / "seeded.py").write_text(
        "import os\n\n\nasync def program(world):\n"
        "    world.check(os.environ.get('PYTHONHASHSEED') != '1', 'it is not the second seed')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    found = explored(Request("seeded.py:program", executions_max=10), Progress(None, None))
    assert found.counterexample is not None
    monkeypatch.delenv("PYTHONHASHSEED")
    monkeypatch.setattr(replay, "_SEEDS_TRIED", 2)
    with pytest.raises(NotExportable, match="with PYTHONHASHSEED=1 it is"):
        replay.exported(found.counterexample.schedule)
