"""Forced on stock asyncio: what the simulator shows, an unmodified SelectorEventLoop does."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sim import explore, outcomes
from sim.bugs import HISTORICAL_BUGS, HistoricalBug
from sim.bugs.base import this_version
from sim.cli import main
from sim.export.file import export
from sim.export.sources import Bundle, NotExportable, bundle_of
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds
from sim.schedulers import RandomWalk
from tests.limits import AMPLE_S, HANGS_S
from tests.sim.exported_files import HERE, NOT_FORCED, run_alone
from tests.sim.random_programs import random_program

DRIVER = Path(__file__).with_name("stock_driver.py")
SCHEDULES = 3
BOUNDS = Bounds(spin_max=50)

Import = Callable[[str, str], ModuleType]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Writes a module of the user's, named by its path, and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write_and_import(name: str, source: str) -> ModuleType:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        return import_module(name.removesuffix(".__init__"))

    yield write_and_import
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# ---- the same, callback by callback ----------------------------------------------------------


def executions(seed: str, source: str) -> Iterator[Outcome]:
    """A few traced executions of the program in the source, under random schedules."""
    namespace: dict[str, Any] = {"__name__": seed}
    exec(compile(source, seed, "exec"), namespace)
    walk = RandomWalk(seed)  # type: ignore[arg-type]
    return islice(outcomes(namespace["program"], walk, bounds=BOUNDS, traced=True), SCHEDULES)


def simulated(outcome: Outcome) -> dict[str, Any]:
    """In the form in which the driver prints it."""
    violation = outcome.violation
    return {
        "steps": steps_of(outcome),
        "trace": [[line.at, line.actor, line.text] for line in outcome.trace],
        "violation": violation and [violation.property, violation.at],
        "labels": sorted(outcome.labels),
    }


def steps_of(outcome: Outcome) -> list[str]:
    """Up to the end, without the draining; what is no difference is levelled."""
    assert outcome.recording is not None
    return [levelled(step) for step in outcome.steps[: outcome.recording.steps_count]]


def levelled(step: str) -> str:
    """Our classes have other names there. A task may be named after its first step has joined the
    ready queue. And what a poll finds joins the queue when it lands here, which a trace line tells
    as well, and when select returns there, which may be late.
    """
    at, actor, name = step.split(" ", 2)
    if name == "_settle":
        return name
    ours = r"\b((Sim|Recorded|Stock|Base)(Task|Future|Loop|EventLoop)|LoopOfTasks)\."
    name = re.sub(ours, "", name)
    return f"{at} {'task' if name.startswith('TaskStep') else actor} {name}"


def run_in_stock_asyncio(folder: Path) -> dict[str, dict[str, Any]]:
    """What the files of the folder come to."""
    run = subprocess.run(
        [HERE, "-I", str(DRIVER), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert run.returncode == 0, run.stderr
    forced = dict(json.loads(line) for line in run.stdout.splitlines())
    for each in forced.values():
        each["steps"] = [levelled(step) for step in each["steps"]]
    return forced


@pytest.mark.parametrize(
    ("kind", "programs"),
    [
        ("p", 5),
        pytest.param("p", 80, marks=pytest.mark.thorough),
        pytest.param("soak", 1000, marks=pytest.mark.soak),
    ],
)
def test_random_programs_do_the_same_in_stock_asyncio(
    kind: str, programs: int, tmp_path: Path
) -> None:
    """Each callback, trace line, label and violation of random executions, to the nanosecond."""
    expected = {}
    sources = {}
    for number in range(programs):
        seed = f"{kind}{number}"
        source = random_program(seed)
        for schedule, outcome in enumerate(executions(seed, source)):
            name = f"{seed}_{schedule}"
            text = export(outcome, Bundle(f"{seed}:program", {seed: source}), BOUNDS, name)
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
            expected[name] = simulated(outcome)
            sources[name] = source
    forced = run_in_stock_asyncio(tmp_path)
    for name, outcome in expected.items():
        assert forced[name] == outcome, f"{sources[name]}\n{name}"
    steps = sum(len(outcome["steps"]) for outcome in expected.values())
    violations = sum(outcome["violation"] is not None for outcome in expected.values())
    print(f"{len(expected)} executions, {violations} violations, {steps} callbacks: the same")
    assert len(expected) == len(forced) == programs * SCHEDULES
    assert 0.2 < violations / len(expected) < 0.8


STUCK = {
    "no deadlock: nothing waits for what can no longer come": "await asyncio.Event().wait()",
    "no livelock: nothing spins while virtual time stands still": """
    while True:
        await asyncio.sleep(0)""",
    "the execution ends": """
    while True:
        await asyncio.sleep(7)""",
    "the program ends without an exception": "raise ValueError('no')",
    "no callback raises": """
    asyncio.get_running_loop().call_soon(int, 'no')
    await asyncio.sleep(1)""",
    "what it says": "assert False, 'what it says'",
    "it is asked at each poll": """
    world.always('it is asked at each poll', lambda: world.now < 3)
    await asyncio.sleep(2)
    await asyncio.sleep(2)""",
}
RAISING = {
    "what is asked": "world.always('it is early', lambda: 1 / (world.now < 3))",
    "what is seen": "world.always('it is early', lambda: world.now < 3, seen=lambda: 1 / 0)",
}


@pytest.mark.parametrize("sentence", STUCK)
def test_each_kind_of_violation_comes_by_itself(
    sentence: str, imported: Import, tmp_path: Path
) -> None:
    """Deadlock, livelock, no end, an exception: the stock loop gets there, the file is not told."""
    body = STUCK[sentence].strip("\n")
    source = "import asyncio\n\nasync def program(world):\n    await world.outside('it begins')\n"
    module = imported("stuck", source + (body if body.startswith(" ") else f"    {body}") + "\n")
    report = explore(module.program, horizon_s=50)
    assert report.counterexample is not None
    assert report.counterexample.property == sentence
    text = report.counterexample.export(module.program)
    code, output = run_alone(text, tmp_path)
    assert code == 1, output
    assert f"VIOLATED: {sentence}" in output
    # The script has the polls, and no word of what is to come of them.
    script = text.partition("from __future__")[2].partition("MODULES = ")[0]
    assert sentence not in script


@pytest.mark.parametrize("asks", RAISING.values(), ids=RAISING)
def test_what_is_asked_and_raises_comes_by_itself(
    asks: str, imported: Import, tmp_path: Path
) -> None:
    """A predicate that raises, and what is seen that does, violate in the file as in the search."""
    module = imported(
        "raising",
        f"import asyncio\n\nasync def program(world):\n    await world.outside('it begins')\n"
        f"    {asks}\n    await asyncio.sleep(2)\n    await asyncio.sleep(2)\n",
    )
    report = explore(module.program)
    assert report.counterexample is not None, report.text
    code, output = run_alone(report.counterexample.export(module.program), tmp_path)
    assert code == 1, output
    assert "VIOLATED: the program ends without an exception" in output
    assert "ZeroDivisionError('division by zero'), in what is asked for «it is early»" in output


# ---- what a file carries ---------------------------------------------------------------------

BANK = """\
from __future__ import annotations

import asyncio

from sim import World, explore


async def program(world: World) -> None:
    balance = 100

    async def withdraw(name: str) -> None:
        nonlocal balance
        await world.outside(f"{name} comes")
        seen = balance
        await world.outside(f"the bank confirms {name}")
        balance = seen - 10

    await asyncio.gather(withdraw("a"), withdraw("b"))
    world.check(balance == 80, "both withdrawals count", f"the balance is {balance}")
"""


def exported(program: Any) -> str:
    report = explore(program)
    assert report.counterexample is not None, report.text
    return report.counterexample.export(program)


def test_an_exported_file_is_a_test(imported: Import, tmp_path: Path) -> None:
    """pytest collects it and it fails with the trace, also where `sim` is installed."""
    (tmp_path / "test_it.py").write_text(exported(imported("bank", BANK).program))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert run.returncode == 1, run.stdout
    assert "1 failed" in run.stdout
    assert "VIOLATED: both withdrawals count" in run.stdout
    assert "seen: the balance is 90" in run.stdout


def test_the_mended_program_passes(imported: Import, tmp_path: Path) -> None:
    """With the bug mended in the file, exit code 0, and it says that the property holds."""
    text = exported(imported("bank", BANK).program)
    mended = text.replace("        seen = balance\n", "").replace("seen - 10", "balance - 10")
    code, output = run_alone(mended, tmp_path)
    *_, says, note = output.splitlines()
    assert (code, says) == (0, "no violation: on this Python every property holds")
    assert note.startswith("if nothing was mended, a set of strings or a file decides: recorded ")


def test_a_script_that_explores_at_its_top(tmp_path: Path) -> None:
    """A script, whose module is `__main__`, exports itself; what follows explore is not run."""
    script = tmp_path / "script.py"
    script.write_text(
        BANK + "\n\nreport = explore(program)\nprint(report.counterexample.export(program))\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    code, output = run_alone(run.stdout, tmp_path)
    assert code == 1, run.stderr + output
    assert "VIOLATED: both withdrawals count" in output


LEAVERS = """\
import asyncio
import sys
import threading

async def exits(world):
    await world.outside("it comes", latest=1)
    sys.exit()

async def a_task_exits(world):
    async def leaves():
        sys.exit(3)

    task = asyncio.create_task(leaves())
    await asyncio.sleep(5)

async def interrupts(world):
    raise KeyboardInterrupt

async def stops_the_loop(world):
    world.loop.stop()
    await asyncio.sleep(1)

async def raises_stop_iteration(world):
    raise StopIteration

async def takes_a_lock_twice(world):
    lock = threading.Lock()
    for _ in range(2):
        lock.acquire()
"""


@pytest.mark.socket
@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("exits", "SystemExit() in exits (leavers in this file:7)"),
        ("a_task_exits", "SystemExit(3) in leaves (leavers in this file:11)"),
        ("interrupts", "KeyboardInterrupt() in interrupts (leavers in this file:17)"),
        ("stops_the_loop", "the program stops the loop, and has not ended"),
        ("raises_stop_iteration", "in raises_stop_iteration (leavers in this file:24)"),
        ("takes_a_lock_twice", "the loop's thread blocks for ever in takes_a_lock_twice (line 29)"),
    ],
)
def test_a_program_that_leaves_or_blocks_is_violated_there_too(
    name: str, seen: str, imported: Import, tmp_path: Path
) -> None:
    """Exit code 1, with the line of the program: the file neither ends early nor hangs."""
    code, output = run_alone(exported(getattr(imported("leavers", LEAVERS), name)), tmp_path)
    assert code == 1, output
    assert seen in output
    sentence = "no deadlock" if name == "takes_a_lock_twice" else "the program ends without"
    assert f"VIOLATED: {sentence}" in output


def test_modules_of_the_user_are_carried(imported: Import, tmp_path: Path) -> None:
    """A package of the user's goes along, relative imports and quotes in its sources too."""
    imported("shop.__init__", "KIND = 'a' * 3 + '''\\n'''")
    imported("shop.purse", 'class Purse:\n    """It\'s empty."""\n    coins = 0\n')
    source = (
        "from . import KIND\nfrom .purse import Purse\n\n"
        "async def program(world):\n"
        "    await world.outside('a thief')\n"
        "    world.check(Purse.coins, f'the {KIND.strip()} purse is full')\n"
    )
    module = imported("shop.theft", source)
    bundle = bundle_of(module.program)
    assert set(bundle.sources) == {"shop", "shop.purse", "shop.theft"}
    assert bundle.packages == set()
    code, output = run_alone(exported(module.program), tmp_path)
    assert code == 1, output
    assert "VIOLATED: the aaa purse is full" in output


def test_installed_packages_are_named(imported: Import) -> None:
    """What is installed is not carried; the file says that it needs it."""
    module = imported(
        "with_anyio",
        "import anyio\n\nasync def program(world):\n"
        "    await anyio.sleep(1)\n    world.check(False, 'never')\n",
    )
    assert bundle_of(module.program).packages == {"anyio"}
    assert "# It needs the standard library and anyio." in exported(module.program)


def test_a_function_within_a_function(tmp_path: Path, imported: Import) -> None:
    """It is taken out of there, if it uses no variables of it; else it is refused."""
    source = (
        "import asyncio\n\n"
        "def make(number):\n"
        "    async def free(world):\n"
        "        await asyncio.sleep(0)\n"
        "        world.check(False, 'never')\n\n"
        "    async def bound(world):\n"
        "        world.check(number, 'never')\n\n"
        "    return free, bound\n"
    )
    free, bound = imported("nested", source).make(0)
    code, output = run_alone(exported(free), tmp_path)
    assert code == 1, output
    with pytest.raises(NotExportable, match=r"make.<locals>.bound.* at the top level of a module"):
        exported(bound)


def test_sets_of_futures(imported: Import) -> None:
    """The one thing set on the loop besides its clock is set only where sets depend on it."""
    head = "import asyncio\n\nasync def program(world):\n    loop = asyncio.get_running_loop()\n"
    with_sets = head + (
        "    await asyncio.wait({loop.create_future() for _ in range(3)}, timeout=1)\n"
        "    world.check(False, 'never')\n"
    )
    without = head + "    world.check(False, 'never')\n"
    assert "hashes_futures=True" in exported(imported("with_sets", with_sets).program)
    assert "hashes_futures=False" in exported(imported("without", without).program)


# ---- what does not fit -----------------------------------------------------------------------

LATE = """\
import asyncio

async def program(world):
    mood = world.choose("mood", ("calm", "busy"))
    await asyncio.sleep(0.1)
    await world.outside("a", earliest=1.0, latest=2.0)
    await world.outside("b")
    world.check(mood == "calm", "it is calm")
"""


@pytest.mark.parametrize(
    ("changed", "into", "misfit"),
    [
        ('outside("a"', 'outside("c"', "does not wait for 'a', which the script has to land"),
        ('"busy"))', '"wild"))', "where the script has mood: busy"),
        ("latest=2.0", "latest=9.0", None),
        ("earliest=1.0", "earliest=1.5", "does not wait for 'a'"),
        ("sleep(0.1)", "sleep(0.2)", "where the script wakes it for nothing"),
        ("sleep(0.1)", "sleep(0.05)", "where the script lets it oversleep"),
        ("earliest=1.0, latest=2.0", "earliest=0.5, latest=0.9", "waits for ['a'], not for 1.1"),
        ("    await asyncio.sleep(0.1)\n", "", "in poll 2 of 7 the program sleeps until inf"),
    ],
)
def test_a_program_on_another_path_meets_what_is_left_of_the_script(
    changed: str, into: str, misfit: str | None, imported: Import, tmp_path: Path
) -> None:
    """Where the script does not fit it says so, and its events still find a bug that is there."""
    text = exported(imported("late", LATE).program)
    # The comments at the top tell the counterexample, and may quote the program.
    comments, text = text[: text.index("\n\n")], text[text.index("\n\n") :]
    assert text.count(changed) == 1
    code, output = run_alone(comments + text.replace(changed, into), tmp_path)
    assert "Traceback" not in output
    if misfit is not None:
        assert misfit in output
        assert "recorded with CPython" in output
    # Without the answer that it takes there is no bug, and the test says that it tests nothing.
    assert code == (3 if "wild" in into else 1), output
    assert ("what never came of the script: mood: busy" in output) == (code == 3)


@pytest.mark.parametrize("asked", ["world.environment.check(mood", "await asyncio.to_thread(int"])
def test_what_the_file_does_not_have_is_not_decided(
    asked: str, imported: Import, tmp_path: Path
) -> None:
    """A program that was changed so that it needs the simulator, or threads: exit code 3."""
    text = exported(imported("late", LATE).program)
    code, output = run_alone(text.replace("    world.check(mood", f"    {asked}"), tmp_path)
    assert code == 3, output
    assert "which only the simulator has" in output or "runs a worker thread" in output


# ---- once the bug is fixed -------------------------------------------------------------------

# What a program may gain elsewhere while it keeps its bug, at its beginning.
PADDED = {
    "a poll": "    await asyncio.sleep(0)\n",
    "three polls": "    for _ in range(3):\n        await asyncio.sleep(0)\n",
    "half a second": "    await asyncio.sleep(0.5)\n",
    "an event": "    await world.outside('somebody comes')\n",
}
FORCEABLE = [
    bug for bug in HISTORICAL_BUGS if bug.shows_on(this_version()) and bug.id not in NOT_FORCED
]


def python_for(bug: HistoricalBug) -> str:
    """This environment, where the program runs code of an installed package."""
    return sys.executable if bundle_of(bug.program).packages else HERE


def in_the_file(text: str, replaced: dict[str, str], folder: Path, python: str) -> tuple[int, str]:
    """The file run with other sources of these modules."""
    before, middle, after = text.partition("SOURCES = Sources(MODULES")
    assert middle
    return run_alone(f"{before}MODULES.update({replaced!r})\n{middle}{after}", folder, python)


# Each bug with one of them, in turns; with all others when it is asked for.
TURNS = [what for what, _ in zip(cycle(PADDED), FORCEABLE, strict=False)]


def changed_programs() -> Iterator[Any]:
    for bug, turn in zip(FORCEABLE, TURNS, strict=True):
        for what in PADDED:
            marks = [] if what == turn else [pytest.mark.thorough]
            yield pytest.param(bug, what, id=f"{bug.id} with {what}", marks=marks)


@pytest.mark.parametrize(("bug", "what"), [*changed_programs()])
def test_a_bug_is_found_wherever_its_program_has_changed(
    bug: HistoricalBug, what: str, tmp_path: Path
) -> None:
    """Also if the program takes more polls, more time, or another event before it comes there."""
    found = explore(bug.program).counterexample
    assert found is not None
    text = found.export(bug.program)
    module, name = bug.program.__module__, bug.program.__qualname__
    source = Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")
    docstring = r'(?:    """[^"]*"""\n)?'
    head = re.compile(rf"(async def {name}\(world: World\) -> None:\n{docstring})")
    padded, count = head.subn(rf"\g<1>{PADDED[what]}".replace("\n", r"\n"), source)
    assert count == 1
    code, output = in_the_file(text, {module: padded}, tmp_path, python_for(bug))
    assert code == 1, output


@pytest.mark.parametrize(
    "bug", [bug for bug in FORCEABLE if bug.fixed is not None], ids=lambda bug: bug.id
)
def test_a_fixed_program_passes(bug: HistoricalBug, tmp_path: Path) -> None:
    """The twin without the bug in the file of the bug: exit code 0, whichever path it takes."""
    found = explore(bug.program).counterexample
    assert found is not None
    assert bug.fixed is not None
    text = found.export(bug.program)
    programs = [f"{each.__module__}:{each.__qualname__}" for each in (bug.program, bug.fixed)]
    before, after = (f"PROGRAM = {each!r}" for each in programs)
    assert text.count(before) == 1
    code, output = run_alone(text.replace(before, after), tmp_path, python_for(bug))
    assert code == 0, output


FIXED_ELSEWHERE = {
    "passes": ("seen = balance\n", "seen = 0\n", "1 passed"),
    "is skipped": ('await world.outside(f"{name} comes")', "pass", "1 skipped"),
}


@pytest.mark.parametrize("outcome", FIXED_ELSEWHERE)
def test_the_test_of_a_fixed_program_does_not_fail(
    outcome: str, imported: Import, tmp_path: Path
) -> None:
    """pytest shows it as passed; as skipped, with the reason, if some events never came."""
    changed, into, shown = FIXED_ELSEWHERE[outcome]
    text = exported(imported("bank", BANK).program).replace("seen - 10", "balance - 10")
    assert text.count(changed) == 1
    (tmp_path / "test_it.py").write_text(text.replace(changed, into))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert run.returncode == 0, run.stdout
    assert shown in run.stdout
    if "skipped" in shown:
        assert "what never came of the script: a comes, b comes" in run.stdout


DRAWS = """\
import datetime
import os
import random
import resource
import secrets
import time
import uuid
from datetime import date
from datetime import datetime as Moment
from random import shuffle
from time import monotonic


async def program(world):
    await world.outside("it begins")
    letters = list("abcdefgh")
    shuffle(letters)
    random.seed()
    drawn = [
        *("".join(letters), random.random(), random.Random().random(), random.Random(3).random()),
        *(uuid.uuid4(), uuid.uuid1(), secrets.token_hex(4), os.urandom(3)),
        random.SystemRandom().random(),
        *(time.time(), time.monotonic_ns(), monotonic(), time.strftime("%H", time.gmtime())),
        *(datetime.datetime.now(), Moment.now(datetime.UTC), Moment.utcnow(), Moment.today()),
        *(date.today(), datetime.date.today(), isinstance(Moment(2020, 1, 2), Moment)),
        *(time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC)),
        *(time.process_time(), time.thread_time_ns(), tuple(os.times()), time.strftime("%F %T")),
        *(resource.getrusage(resource.RUSAGE_SELF)[:2], time.asctime(), time.ctime(None)),
    ]
    world.check(False, "these are drawn: " + ", ".join(map(str, drawn)))
"""


def test_what_is_drawn_is_the_same(
    imported: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """random, uuid, secrets, os.urandom, datetime and all clocks give what they gave before."""
    report = explore(imported("draws", DRAWS).program, entropy_seed=5)
    assert report.counterexample is not None
    text = report.counterexample.export(sys.modules["draws"].program)
    code, output = run_alone(text, tmp_path)
    assert code == 1, output
    assert f"VIOLATED: {report.counterexample.property}" in output
    before = random.getstate()
    module = ModuleType("drawn_again")
    monkeypatch.setitem(sys.modules, "drawn_again", module)
    exec(compile(text, "drawn_again", "exec"), vars(module))
    with pytest.raises(AssertionError):
        module.test_draws_program()
    assert random.getstate() == before
    assert os.urandom(8) != os.urandom(8)


UNFORCEABLE = """\
import asyncio
import time

async def with_a_thread(world):
    await asyncio.to_thread(int)
    world.check(False, "never")

async def with_a_task_factory(world):
    world.loop.set_task_factory(None)
    world.check(False, "never")

async def with_simpy(world):
    world.environment.timeout(1)
    world.check(False, "never")

async def with_a_sleeping_loop(world):
    time.sleep(1)
    world.check(False, "never")
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("with_a_thread", "worker threads run in it"),
        ("with_a_task_factory", "the program sets a task factory"),
        ("with_simpy", "it has SimPy processes of its own"),
        ("with_a_sleeping_loop", "the loop's own thread sleeps between two polls"),
    ],
)
def test_what_no_selector_could_bring_about_is_refused(
    name: str, why: str, imported: Import
) -> None:
    """With a sentence that says what it is; no file is written that would not show the same."""
    program = getattr(imported("unforceable", UNFORCEABLE), name)
    with pytest.raises(NotExportable, match=why):
        exported(program)


CANCELLED = """\
import asyncio

async def program(world):
    world.offer_cancels()
    task = asyncio.create_task(asyncio.sleep(1))
    await asyncio.wait({task})
    world.check(not task.cancelled(), "it is not cancelled")
"""


def test_an_offered_cancel_that_is_taken_is_refused(imported: Import) -> None:
    """A cancel between two callbacks comes from no poll."""
    program = imported("cancelled", CANCELLED).program
    report = explore(program, strategy="cancel everywhere")
    assert report.counterexample is not None
    with pytest.raises(NotExportable, match="cancelled between two callbacks"):
        report.counterexample.export(program)


# ---- the command -----------------------------------------------------------------------------


def schedule_of(registry: str, scenario: str, choices: str = "natural") -> str:
    from sim.bench.checking.check import check

    if registry == "production":
        # There is no counterexample that would tell the digest.
        from sim.bench.catalog import subject_of
        from sim.bench.entry import Entry

        subject = subject_of(Entry("registry", scenario, registry))
        return f"os2/{subject.name}/{subject.digest}/{choices}"
    (result,) = check(scenario=scenario, registry=registry, budget_s=AMPLE_S).results
    assert result.report.counterexample is not None
    return result.report.counterexample.schedule


@pytest.mark.parametrize(
    ("registry", "scenario", "code", "last"),
    [
        ("quick_fix", "racing_registers", 1, "  seen: p2 and p3 are active"),
        ("quick_fix", "swallowed_cancel", 1, "  seen: p2's register (5.000 s)"),
        ("production", "racing_registers", 0, "no violation: "),
    ],
)
def test_a_registry_is_forced_on_stock_asyncio(
    registry: str,
    scenario: str,
    code: int,
    last: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`onestream export` writes a file with registry and bench in it, which shows the same."""
    file = tmp_path / "exported.py"
    assert main(["export", schedule_of(registry, scenario), "-o", str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    exit_code, output = run_alone(file.read_text(encoding="utf-8"), tmp_path)
    assert exit_code == code, output
    assert output.splitlines()[-1].startswith(last), output


def test_the_server_level_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Its network is made of SimPy processes; the command says so, and exits with 3."""
    from sim.bench.catalog import subject_of
    from sim.bench.entry import Entry
    from sim.bench.scenarios import SCENARIOS_BY_LEVEL

    subject = subject_of(Entry("server", SCENARIOS_BY_LEVEL["server"][0].name, "production"))
    assert main(["export", f"os2/{subject.name}/{subject.digest}/natural"]) == 3
    assert "a schedule of level server cannot be forced" in capsys.readouterr().err


def test_a_schedule_of_other_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As by `onestream replay`: a schedule that was made with other code forces nothing."""
    assert main(["export", "os2/registry:racing_registers:quick_fix/00000000/natural"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "the code, the interpreter or a dependency is another" in told
