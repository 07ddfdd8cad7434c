"""Tests that are marked `explore` are explored, and say what they found."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

# Imported here, since pytester forgets what is imported first within it.
import sim.exploration.search
import sim.runner  # noqa: F401
from tests.limits import HANGS_S

LOST_UPDATE = """
    import asyncio
    import pytest

    @pytest.mark.explore
    async def test_withdraw(world):
        balance = 100

        async def withdraw(name):
            nonlocal balance
            seen = balance
            await world.outside(f"the bank confirms {name}")
            balance = seen - 10

        await asyncio.gather(withdraw("a"), withdraw("b"))
        assert balance == 80
"""

NARROW = """
    import asyncio
    import pytest

    @pytest.mark.explore
    async def test_late(world):
        print("printed once per execution")
        done = asyncio.Event()

        async def finishes():
            await world.outside("it finishes", latest=2.0)
            done.set()

        task = asyncio.create_task(finishes())
        try:
            async with asyncio.timeout(1.0):
                await done.wait()
        except TimeoutError:
            pass
        finished = done.is_set()
        await task
        assert finished
"""


def run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_a_test_is_explored_and_not_run_once(pytester: pytest.Pytester) -> None:
    """A violation that natural order does not have is found, and the summary counts."""
    result = run(pytester, NARROW)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 explored: refuted 1, executions *"])


def test_a_failure_shows_the_counterexample(pytester: pytest.Pytester) -> None:
    """The assertion's own lines, departures, what happened, and the command; no traceback of ours.

    What the test prints is printed once, of the execution that failed."""
    result = run(pytester, NARROW)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "refuted: assert False*",
            "*test_a_failure_shows_the_counterexample.py:21: in test_late",
            "*assert finished",
            "violated at 1.000 s: assert False",
            "*departures: *",
            "*what happened*",
            "replay: pytest *::test_late --sim-replay *",
            "FAILED *::test_late - Failed: refute*",
        ]
    )
    assert text.count("printed once per execution") == 1
    assert "exploration.py" not in text
    assert "onestream replay" not in text


def test_the_replay_command_replays(pytester: pytest.Pytester) -> None:
    """Given back by the command that was printed, the schedule fails alike, in one execution."""
    text = run(pytester, NARROW).stdout.str()
    found = re.search(r"pytest (\S+) --sim-replay (\S+)", text)
    assert found is not None
    again = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", found[1], "--sim-replay", found[2].strip("'")
    )
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["violated at 1.000 s: assert False", "*it finishes*"])
    assert "explored" not in again.stdout.str()


def test_the_command_of_a_method_with_parameters_replays(pytester: pytest.Pytester) -> None:
    """Classes, slashes and blanks in a test's name survive the way through a shell."""
    text = run(
        pytester,
        """
        import pytest

        @pytest.mark.explore
        class TestClass:
            @pytest.mark.parametrize("name", ["a/b c", "d"])
            async def test_method(self, world, name):
                assert world.choose("hold", [True, False]) or name == "d"
        """,
    ).stdout.str()
    command = re.search(r"replay: pytest (.*)", text)
    assert command is not None
    again = pytester.runpytest_inprocess("-p", "no:cacheprovider", *shlex.split(command[1]))
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*hold: False*"])


def test_a_replay_without_a_violation_passes_and_is_printed(pytester: pytest.Pytester) -> None:
    """The natural schedule of a test that fails only late: the trace, and no failure."""
    text = run(pytester, NARROW).stdout.str()
    found = re.search(r"--sim-replay (\S+)/[^/\s]+", text)
    assert found is not None
    schedule = f"{found[1]}/natural".strip("'")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--sim-replay", schedule)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: no violation under os2/*", "*outside  it finishes"])


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("nonsense", "*is not a schedule*"),
        ("os2/test_other/00000000/natural", "*is one of test_other*"),
        ("os2/test_late/00000000/natural", "*the digest 00000000, the code here has*"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(
    pytester: pytest.Pytester, schedule: str, reason: str
) -> None:
    """No schedule, another test's, or of other code: the test fails, and says why."""
    result = run(pytester, NARROW, "--sim-replay", schedule)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([reason])
    assert "Traceback" not in result.stdout.str()
    assert re.search(r"sim/\S+:\d+: ", result.stdout.str()) is None


def test_an_option_without_sense_is_refused(pytester: pytest.Pytester) -> None:
    """Of the command line and the ini file, as of the marker."""
    text = "import pytest\n@pytest.mark.explore\nasync def test_it(): pass\n"
    result = run(pytester, text, "--sim-budget", "nan")
    result.stdout.fnmatch_lines(["*budget_s=nan makes no sense*"])
    result = run(pytester, text, "-o", "sim_seed=x")
    result.stdout.fnmatch_lines(["*sim_seed = x in the ini file is not of the type int*"])


def test_what_holds_under_every_schedule_passes(pytester: pytest.Pytester) -> None:
    """With and without `world`, with fixtures, parameters and methods, and markers of a class."""
    result = run(
        pytester,
        """
        import asyncio
        import pytest

        set_up = []

        @pytest.fixture
        def once():
            set_up.append("set up")
            yield len(set_up)
            set_up.append("taken down")

        pytestmark = pytest.mark.explore(max_executions=500)

        async def test_without_world():
            loop = asyncio.get_running_loop()
            await asyncio.sleep(3600 * 0.1)
            assert loop.time() >= 360

        @pytest.mark.parametrize("name", ["a", "b/c d"])
        async def test_with_all(world, name, once, tmp_path):
            await world.outside(name, latest=1.0)
            assert once == len(set_up)
            assert tmp_path.exists()

        class TestClass:
            @pytest.mark.explore(labels=["was here"])
            async def test_method(self, world):
                await world.outside("event", latest=1.0)
                world.reached("was here")
        """,
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*4 explored: proved 4, executions *"])


def test_others_are_left_alone(pytester: pytest.Pytester) -> None:
    """Tests without the marker run as ever; there is no summary, and `world` is refused."""
    result = run(
        pytester,
        """
        def test_plain():
            pass

        def test_world(world):
            pass
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*`world` is for tests that are marked*"])
    assert "explored" not in result.stdout.str()


def test_a_world_of_ones_own_is_kept(pytester: pytest.Pytester) -> None:
    """A fixture `world` of the suite comes before ours."""
    result = run(
        pytester,
        """
        import pytest

        @pytest.fixture
        def world():
            return "my own"

        def test_plain(world):
            assert world == "my own"

        @pytest.mark.explore
        async def test_explored(world):
            assert world == "my own"
        """,
    )
    result.assert_outcomes(passed=2)


UNFINISHED = """
    import pytest

    @pytest.mark.explore(max_executions=3{more})
    async def test_many(world):
        for step in range(5):
            world.choose(f"step {{step}}", "ab")
"""


def test_a_budget_that_runs_out_fails(pytester: pytest.Pytester) -> None:
    """It never passes silently: the reason is shown, and what to write if it may pass."""
    result = run(pytester, UNFINISHED.format(more=""))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["inconclusive: the limit of 3 executions was reached*"])
    result.stdout.fnmatch_lines(["*inconclusive='pass'*"])
    result.stdout.fnmatch_lines(["*1 explored: inconclusive 1, executions 3"])


def test_it_may_pass_with_a_warning(pytester: pytest.Pytester) -> None:
    """With `inconclusive="pass"` in the marker, or the ini file, it is a warning."""
    lenient = ("-W", "always::sim.pytest_plugin.InconclusiveWarning")
    result = run(pytester, UNFINISHED.format(more=", inconclusive='pass'"), *lenient)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*InconclusiveWarning: *the limit of 3 executions*"])
    pytester.makeini("[pytest]\nsim_inconclusive = pass\n")
    result = run(pytester, UNFINISHED.format(more=""), *lenient)
    result.assert_outcomes(passed=1, warnings=1)
    # A suite whose warnings are errors has it as a failure, still in words.
    result = run(pytester, UNFINISHED.format(more=""), "-W", "error")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: inconclusive: the limit of 3 executions*"])


def test_labels_that_are_never_reached_fail(pytester: pytest.Pytester) -> None:
    """A test that never comes by what it is about does not pass."""
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.explore(labels=["the narrow case"])
        async def test_it(world):
            await world.outside("event")
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["inconclusive: labels never reached: the narrow case*"])


def test_options_override_the_marker_and_that_the_ini_file(pytester: pytest.Pytester) -> None:
    """The command line comes first, then the marker, then the ini file."""
    pytester.makeini("[pytest]\nsim_max_executions = 2\nsim_strategy = random\n")
    text = UNFINISHED.format(more="")
    run(pytester, text.replace("max_executions=3", "")).stdout.fnmatch_lines(
        ["*limit of 2 executions*random*"]
    )
    run(pytester, text).stdout.fnmatch_lines(["*limit of 3 executions*random*"])
    run(pytester, text, "--sim-max-executions", "4").stdout.fnmatch_lines(
        ["*limit of 4 executions*random*"]
    )
    run(
        pytester, text, "--sim-max-executions", "1000000", "--sim-budget", "0.05"
    ).stdout.fnmatch_lines(["*the budget is spent*"])


def test_the_seed_decides_what_random_finds(pytester: pytest.Pytester) -> None:
    """The same --sim-seed finds the same counterexample after as many executions."""
    text = NARROW.replace("@pytest.mark.explore", "@pytest.mark.explore(strategy='random')")

    def found(seed: int) -> str:
        output = run(pytester, text, "--sim-seed", str(seed)).stdout.str()
        match = re.search(r"executions (\d+)", output)
        assert match is not None
        return match[1]

    first = found(3)
    assert found(3) == first
    assert any(found(seed) != first for seed in range(12))


def test_a_plain_function_is_explored_in_a_thread(pytester: pytest.Pytester) -> None:
    """It may block, start threads, and use a lock that its fixture made before."""
    text = """
        import asyncio
        import threading
        import time
        import pytest
        from sim import DepartureBounded

        class Account:
            def __init__(self):
                self.lock, self.balance = threading.Lock(), 100

            def withdraw(self):
                seen = self.balance
                time.sleep(0.1)
                self.balance = seen - 10

            def withdraw_locked(self):
                with self.lock:
                    self.withdraw()

        @pytest.fixture
        def account():
            return Account()

        def two_of(work):
            threads = [threading.Thread(target=work) for _ in range(2)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()

        @pytest.mark.explore
        def test_update(account):
            account.balance = 100
            two_of(account.withdraw)
            assert account.balance == 80

        @pytest.mark.explore(strategy=DepartureBounded(0))
        def test_locked(account, world):
            account.balance = 100
            two_of(account.withdraw_locked)
            world.check(account.balance == 80, "both count")
            assert asyncio.run(asyncio.sleep(36, "late")) == "late"
    """
    result = run(pytester, text)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FAILED*test_update*"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("@pytest.mark.explore\nasync def test_it(): yield", "*has a `yield`*"),
        ("@pytest.mark.explore(speed=3)\nasync def test_it(): pass", "*does not know speed*"),
        ("@pytest.mark.explore('random')\nasync def test_it(): pass", "*by name only*"),
        (
            "@pytest.mark.explore(inconclusive='ok')\nasync def test_it(): pass",
            "*inconclusive='ok' makes no sense: inconclusive is 'fail' or 'pass'*",
        ),
        (
            "@pytest.mark.explore(spin_max=0)\nasync def test_it(): pass",
            "*spin_max=0 makes no sense: spin_max is a whole number, 1 or more*",
        ),
        (
            "@pytest.mark.explore(strategy='nope')\nasync def test_it(): pass",
            "*strategy 'nope' is not known; there are staged,*",
        ),
        (
            "@pytest.mark.explore(sources=3)\nasync def test_it(): pass",
            "*sources=3 makes no sense: sources is a list*",
        ),
        (
            "import unittest\nclass TestIt(unittest.IsolatedAsyncioTestCase):\n"
            "    @pytest.mark.explore\n    async def test_it(self): pass",
            "*unittest.TestCase is not explored*",
        ),
        (
            "from hypothesis import given, strategies\n@pytest.mark.explore\n"
            "@given(n=strategies.integers())\nasync def test_it(world, n): pass",
            "*or given examples by Hypothesis*",
        ),
    ],
    ids=[
        "plain",
        "unknown",
        "positional",
        "inconclusive",
        "bound",
        "strategy",
        "sources",
        "unittest",
        "hypothesis",
    ],
)
def test_misuse_is_refused(pytester: pytest.Pytester, text: str, reason: str) -> None:
    """What the marker cannot do it refuses with a sentence."""
    result = run(pytester, f"import pytest\n{text}\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([reason])


def test_outcomes_of_pytest_are_kept(pytester: pytest.Pytester) -> None:
    """skip, xfail, fail and raises do within an execution what they do elsewhere."""
    result = run(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.explore

        async def test_skips(world):
            await world.outside("event")
            pytest.skip("not here")

        @pytest.mark.xfail(strict=True)
        async def test_xfails():
            assert False

        async def test_fails():
            pytest.fail("on purpose")

        async def test_raises():
            with pytest.raises(OSError):
                raise OSError
        """,
    )
    result.assert_outcomes(passed=1, failed=1, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["refuted: on purpose*"])


LEAVES = """
    import asyncio
    import threading
    import unittest
    import pytest

    pytestmark = pytest.mark.explore

    async def in_a_task(leave, reason):
        async def task():
            leave(reason)

        await asyncio.create_task(task())

    async def in_a_thread(leave, reason):
        await asyncio.to_thread(lambda: leave(reason))

    async def here(leave, reason):
        leave(reason)

    def unittest_skips(reason):
        raise unittest.SkipTest(reason)

    PLACES = [here, in_a_task, in_a_thread]

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("leave", [pytest.skip, pytest.xfail, unittest_skips])
    async def test_leaves(world, place, leave):
        await place(leave, "it leaves")

    @pytest.mark.explore(isolate=True)
    @pytest.mark.parametrize("leave", [pytest.skip, pytest.xfail])
    async def test_leaves_in_a_fork(world, leave):
        leave("the f\u00f6rk leaves")

    async def test_leaves_in_one_execution(world):
        if world.choose("where", ["here", "there"]) == "there":
            pytest.xfail("not there")

    def test_leaves_a_function():
        pytest.xfail("a function")

    @pytest.mark.parametrize("place", PLACES)
    async def test_fails(world, place):
        await place(pytest.fail, "it fails")

    @pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
    async def test_raises_as_expected():
        1 / 0

    @pytest.mark.xfail(raises=OSError, strict=True)
    async def test_raises_another():
        1 / 0
"""


def test_a_test_leaves_from_anywhere(pytester: pytest.Pytester) -> None:
    """A skip, an xfail or a fail of a task, a thread or a fork does what pytest does with it.

    Its place is a line of the test's, and never one of the simulator's."""
    result = run(pytester, LEAVES, "-rxs")
    result.assert_outcomes(failed=4, xfailed=7, skipped=7)
    text = result.stdout.str()
    name = "test_a_test_leaves_from_anywhere.py"
    flat = " ".join(text.split())
    for place in ("here", "task", "<lambda>"):
        assert re.search(rf"checked in {place} \({name}:\d+ `", flat), place
    assert "the f\u00f6rk leaves" in text
    assert "raised in test_raises_another (test_a_test_leaves_from_anywhere.py:" in flat
    assert not re.search(r"^[./\w]*sim/.*\.py:\d+: in", text, re.MULTILINE)
    assert re.search(r"SKIPPED \[\d\] \S*/sim/", text) is None


@pytest.mark.parametrize(
    ("mark", "place"), [("", "await asyncio.to_thread(leave)"), ("(isolate=True)", "leave()")]
)
def test_an_exit_ends_the_session(pytester: pytest.Pytester, mark: str, place: str) -> None:
    """pytest.exit stops the exploration and the session, with its return code."""
    result = run(
        pytester,
        f"""
        import asyncio
        import pytest

        @pytest.mark.explore{mark}
        async def test_exits(world):
            def leave():
                if world.choose("number", range(1000)) == 1:
                    pytest.exit("no service", 7)
            {place}

        def test_never():
            pass
        """,
    )
    assert result.ret == 7
    result.stdout.fnmatch_lines(["*Exit: no service*"])


STATE = """
    import asyncio
    import pytest

    LOCK = asyncio.Lock()

    async def two_work(world):
        async def works(number):
            async with LOCK:
                await world.outside(f"{number}", latest=1)

        await asyncio.gather(works(1), works(2))

    @pytest.fixture
    def orders():
        return []

    @pytest.mark.explore(isolate=True)
    async def test_lock_isolated(world):
        await two_work(world)

    @pytest.mark.explore
    async def test_lock(world):
        await two_work(world)

    @pytest.mark.explore(isolate=True)
    async def test_fixture_isolated(world, orders):
        await asyncio.sleep(len(orders))
        orders.append(1)
        assert orders == [1]

    @pytest.mark.explore
    async def test_fixture(world, orders):
        await asyncio.sleep(len(orders))
        orders.append(1)

    @pytest.mark.explore(isolate=True)
    async def test_fails_isolated(world, orders):
        orders.append(1)
        assert orders == [2], "the order is taken"

    @pytest.mark.explore(isolate=True)
    async def test_skips_isolated(world):
        pytest.skip("not in a fork, either")

    @pytest.mark.explore(max_executions=1)
    async def test_needs_more(world):
        world.choose("any", "ab")

    @pytest.mark.explore(labels=["far"])
    async def test_misses(world):
        pass
"""


@pytest.mark.fresh_copies
@pytest.mark.thorough
def test_the_advice_fits_the_cause(pytester: pytest.Pytester) -> None:
    """State that survives is named, also a fixture's; no more executions would help there."""
    result = run(pytester, STATE, "-rs")
    result.assert_outcomes(passed=2, failed=5, skipped=1)
    text = result.stdout.str()
    told = {  # Without the breaks of its lines, which fall anywhere.
        part.partition(" ")[0]: " ".join(part.split())
        for part in re.split(r"^_+ (?=test_)", text, flags=re.MULTILINE)[1:]
    }
    assert "LOCK._loop was not set, then an event loop that is closed" in told["test_lock"]
    assert "the fixture orders was a list of 0, then a list of 1" in told["test_fixture"]
    for name in ("test_lock", "test_fixture"):
        assert "fixtures are set up once for all executions" in told[name]
        assert "@pytest.mark.explore(isolate=True)" in told[name]
        assert "Give it more" not in told[name]
    assert "AssertionError: the order is taken" in told["test_fails_isolated"]
    assert "Give it more (--sim-budget" in told["test_needs_more"]
    assert "Let the test reach it, or take it out of `labels`" in told["test_misses"]
    assert "not in a fork, either" in text


def test_the_log_is_that_of_one_execution(pytester: pytest.Pytester) -> None:
    """caplog sees only the running execution, and a failure prints the log of one."""
    result = run(
        pytester,
        """
        import logging
        import pytest

        @pytest.mark.explore
        async def test_logs(world, caplog):
            await world.outside("event", latest=1.0)
            logging.warning("logged")
            assert len(caplog.records) == 1
            assert world.choose("hold", [True, False])
        """,
    )
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("WARNING") == 1


def test_captured_output_reaches_a_test_that_reads_it(pytester: pytest.Pytester) -> None:
    """A test that asks for capsys finds what it printed."""
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.explore
        async def test_prints(world, capsys):
            await world.outside("event", latest=1.0)
            print("printed")
            assert capsys.readouterr().out == "printed\\n"
        """,
    )
    result.assert_outcomes(passed=1)


def test_beside_anyios_plugin(pytester: pytest.Pytester) -> None:
    """A test that is also marked for anyio is explored once, and not run by anyio for each backend.

    Others of anyio's are run by it."""
    result = run(
        pytester,
        """
        import asyncio
        import pytest

        loops = []

        @pytest.fixture(params=[("asyncio", {}), ("asyncio", {"debug": True})])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        @pytest.mark.explore
        @pytest.mark.parametrize("n", [1, 2])
        async def test_explored(n):
            loops.append(type(asyncio.get_running_loop()).__name__)

        @pytest.mark.anyio
        async def test_anyio():
            loops.append(type(asyncio.get_running_loop()).__name__)

        def test_last():
            assert set(loops) == {"SimLoop", "ObservedLoop", "_UnixSelectorEventLoop"}
        """,
    )
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*2 explored: proved 2, executions 2"])


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_beside_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """The marker takes precedence; pytest-asyncio's own tests take our policy where it is set."""
    pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed: not shown here")
    pytester.makeconftest(
        """
        import pytest
        from sim import EventLoopPolicy

        @pytest.fixture(scope="session")
        def event_loop_policy():
            return EventLoopPolicy()
        """
    )
    result = run(
        pytester,
        """
        import asyncio
        import pytest

        loops = []

        @pytest.mark.explore
        async def test_explored():
            loops.append(type(asyncio.get_running_loop()).__name__)

        @pytest.mark.asyncio
        @pytest.mark.explore
        async def test_both():
            loops.append(type(asyncio.get_running_loop()).__name__)

        @pytest.mark.asyncio
        async def test_asyncio():
            await asyncio.sleep(3600)
            loops.append(type(asyncio.get_running_loop()).__name__)

        def test_last():
            assert set(loops) == {"SimLoop", "ObservedLoop", "StandaloneLoop"}
        """,
        f"--asyncio-mode={mode}",
        "-oasyncio_default_fixture_loop_scope=function",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*2 explored: proved 2, executions 2"])


@pytest.mark.socket
def test_it_costs_nothing_when_it_is_not_used() -> None:
    """pytest's loading of the plugin imports neither the loop nor SimPy, anyio or greenlet."""
    script = (
        "import sys, pytest, sim.pytest_plugin; "
        "heavy = {'simpy', 'greenlet', 'anyio', 'sim.kernel.loop', 'asyncio'}; "
        "heavy.add('sim.exploration.search'); "
        "before = set(); print(sorted(heavy & set(sys.modules)))"
    )
    plain = "import sys, pytest; print(sorted({'asyncio'} & set(sys.modules)))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", each],
            capture_output=True,
            text=True,
            check=True,
            timeout=HANGS_S,
        ).stdout
        for each in (script, plain)
    ]
    assert outputs[0] == outputs[1]


def test_a_page_is_written_where_it_is_asked_for(pytester: pytest.Pytester) -> None:
    """In the folder, named after the test, with the command of pytest's that replays it."""
    result = run(pytester, NARROW, "--sim-html=pages")
    (file,) = (pytester.path / "pages").iterdir()
    result.stdout.fnmatch_lines([f"*page: {file.as_uri()}*"])
    html = file.read_text(encoding="utf-8")
    assert "--sim-replay" in html
    assert "VIOLATED" in html


def test_pages_without_a_folder_are_told_at_once(pytester: pytest.Pytester) -> None:
    """As wrong usage: a failure of a test would lose its counterexample by it."""
    pytester.makefile(".txt", taken="")
    result = run(pytester, NARROW, "--sim-html=taken.txt")
    result.stderr.fnmatch_lines(["*--sim-html=taken.txt: no folder for pages*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
