"""pytest: an ordinary asyncio test is explored instead of run once.

    @pytest.mark.explore
    async def test_transfer(world): …

The marker takes what `sim.explore` takes (strategy, budget_s, max_executions, seed, labels, isolate
and the bounds), and `inconclusive="pass"`. The test may ask for `world`, or leave it. Fixtures are
set up once for all executions of a test, so what they give must not change, or the test must put it
back, or `isolate=True` gives each execution a fork with them as they were.

pytest loads this file in every run, so nothing of the simulator is imported before a test needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import json
import mmap
import re
import shlex
import unittest
import warnings
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from sim.counterexamples.counterexample import Counterexample
    from sim.exploration.report import Report
    from sim.exploration.subject import Subject
    from sim.kernel.world import World

_EXPLORED = "explored"
_EXECUTIONS = "executions"
_REPLAYED = "replayed"
_CAPTURES = {"capsys", "capsysbinary", "capfd", "capfdbinary", "capteesys"}
_MAY_PASS = "let it pass with a warning: @pytest.mark.explore(inconclusive='pass')"
_REASON_MAX = 600
# Of a reason as JSON, where a character may take twelve bytes.
_LEFT_MAX = 8192
_OWN_OPTIONS = {"inconclusive", "sources"}


class InconclusiveWarning(pytest.PytestWarning):
    """An exploration was inconclusive, and its marker lets that pass."""


class UnretrievedWarning(pytest.PytestWarning):
    """Nobody retrieved an exception, or awaited a coroutine, in an execution that ended well."""


class _WorldToCome:
    """Stands for the world in the arguments of a test, until an execution has one."""


@pytest.fixture
def world(request: pytest.FixtureRequest) -> object:
    """The world of the current execution, in tests that are marked `explore`."""
    if request.node.get_closest_marker("explore") is None:
        pytest.fail("`world` is for tests that are marked @pytest.mark.explore", pytrace=False)
    return _WorldToCome()


# ---- options -------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sim", "exploring asyncio tests (onestream)")
    group.addoption("--sim-seed", type=int, metavar="N", help="seed of random strategies")
    group.addoption("--sim-replay", metavar="SCHEDULE", help="run this one schedule, and print it")
    group.addoption("--sim-budget", type=float, metavar="SECONDS", help="per explored test")
    group.addoption("--sim-max-executions", type=int, metavar="N", help="per explored test")
    group.addoption("--sim-html", metavar="DIR", help="write a page there for each counterexample")
    parser.addini("sim_strategy", "strategy of explored tests", default="")
    parser.addini("sim_seed", "seed of random strategies", default="")
    parser.addini("sim_budget_s", "real seconds for each explored test", default="")
    parser.addini("sim_max_executions", "executions of each explored test at most", default="")
    parser.addini("sim_inconclusive", "`fail` or `pass` without a verdict", default="")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("sim_html")
    if folder is not None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise pytest.UsageError(f"--sim-html={folder}: no folder for pages: {exc}") from None
    config.addinivalue_line(
        "markers",
        "explore(strategy=…, budget_s=…, max_executions=…, seed=…, labels=…, isolate=False, "
        "unretrieved='warn', inconclusive='fail', and bounds, as spin_max=…, horizon_s=…): "
        "run an async test under every schedule that the strategy covers, see sim.explore",
    )


def _settings(item: pytest.Function) -> dict[str, Any]:
    """The command line comes first, then the marker, then the ini file."""
    config = item.config
    settings: dict[str, Any] = {}
    for name, kind in (
        ("strategy", str),
        ("seed", int),
        ("budget_s", float),
        ("max_executions", int),
        ("inconclusive", str),
    ):
        text = config.getini(f"sim_{name}")
        if text:
            settings[name] = _of_ini_file(name, kind, text)
    # The closest marker last, so that it overrides those of class and module.
    for marker in reversed(list(item.iter_markers("explore"))):
        if marker.args:
            _fail(
                f"@pytest.mark.explore takes arguments by name only, not {marker.args!r}: write "
                f"strategy='states', say"
            )
        settings.update(marker.kwargs)
    for name, option in (
        ("seed", "sim_seed"),
        ("budget_s", "sim_budget"),
        ("max_executions", "sim_max_executions"),
    ):
        value = config.getoption(option)
        if value is not None:
            settings[name] = value
    return _checked(settings)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    from sim.exploration.search import explore
    from sim.kernel.arguments import wrong_with

    known = {*inspect.signature(explore).parameters, *_OWN_OPTIONS}
    known -= {"program", "watch"}
    unknown = sorted(set(settings) - known)
    if unknown:
        near = [each for name in unknown for each in difflib.get_close_matches(name, known, 1)]
        meant = f" (is it {', '.join(near)}?)" if near else ""
        _fail(
            f"@pytest.mark.explore does not know {', '.join(unknown)}{meant}; it knows "
            f"{', '.join(sorted(known))}"
        )
    settings.setdefault("inconclusive", "fail")
    if isinstance(settings.get("strategy"), type):
        # A scheduler remembers what it has seen, so each test needs one of its own.
        settings["strategy"] = settings["strategy"]()
    wrong = wrong_with(settings)
    if wrong is not None:
        _fail(f"@pytest.mark.explore, or an option in its place: {wrong}")
    return settings


def _of_ini_file(name: str, kind: Callable[[str], object], text: str) -> object:
    try:
        return kind(text)
    except ValueError:
        _fail(f"sim_{name} = {text} in the ini file is not of the type {kind.__name__}")


# ---- which tests ---------------------------------------------------------------------------


def _is_explored(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.get_closest_marker("explore") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """A test that anyio's plugin would run once for each of its backends is explored once."""
    seen: set[str] = set()
    kept = []
    for item in session.items:
        if _is_explored(item) and "anyio_backend" in getattr(item, "fixturenames", ()):
            name = _without_backend(item)
            if name in seen:
                continue
            seen.add(name)
        kept.append(item)
    session.items[:] = kept


def _without_backend(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    parameters = dict(callspec.params) if callspec is not None else {}
    parameters.pop("anyio_backend", None)
    return f"{item.nodeid.partition('[')[0]} {sorted(parameters.items(), key=repr)!r}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    # Set here, and not called by pytest_pyfunc_call, where pytest-asyncio and anyio would run the
    # async test as well, in their own ways.
    if _is_explored(item):
        assert isinstance(item, pytest.Function)
        item.runtest = functools.partial(_run_explored, item)  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    # Before Hypothesis, which would speak of the fixture `world`.
    if _is_explored(item):
        assert isinstance(item, pytest.Function)
        _require_a_test(item)
    return (yield)


def _run_explored(item: pytest.Function) -> None:
    test = _ExploredTest(item)
    settings = _settings(item)
    schedule = item.config.getoption("sim_replay")
    if schedule:
        _replay(test, schedule, settings)
    else:
        _explore(test, settings)


def _require_a_test(item: pytest.Function) -> None:
    if isinstance(item.cls, type) and issubclass(item.cls, unittest.TestCase):
        _fail("a method of a unittest.TestCase is not explored; make it a function of its own")
    if hasattr(item.obj, "hypothesis"):
        _fail(
            "a test is explored or given examples by Hypothesis, not both; call sim.explore in it"
        )
    if inspect.isgeneratorfunction(item.obj) or inspect.isasyncgenfunction(item.obj):
        _fail(f"{item.name} has a `yield`, and can be neither awaited nor called as a test")


# ---- one test ------------------------------------------------------------------------------


@dataclass
class _ExploredTest:
    """The test as a program: `program(world)` is one execution of it."""

    item: pytest.Function
    # What an execution in this process did in place of an end: a skip, an xfail, an exit.
    left: BaseException | None = None
    raised: BaseException | None = None
    program: Callable[[World], Awaitable[object]] = field(init=False)
    # A schedule names the test, and its parts are set apart by slashes.
    name: str = field(init=False)
    # The same in words, as an execution may be one in a fork.
    _left: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _LEFT_MAX))

    def __post_init__(self) -> None:
        name = self.item.nodeid.partition("::")[2].replace("::", ".")
        self.name = re.sub(r"[/\s]", "_", name)

        # Held by the program itself, where locks that were made before are looked for.
        fixtures = self.item.funcargs

        @functools.wraps(self.item.obj)
        async def program(world: World) -> None:
            await self._run(world, fixtures)

        self.program = program

    def subject(self, settings: dict[str, Any]) -> Subject:
        """What is explored; takes what belongs to it out of the settings."""
        from sim.exploration.subject import Subject

        sources = (*settings.pop("sources", ()), self.item.module)
        fixtures = {
            f"the fixture {name}": self.item.funcargs[name]
            for name in self.item._fixtureinfo.argnames
            if not isinstance(self.item.funcargs[name], _WorldToCome)
        }
        return Subject(self.program, self.name, sources, held=fixtures)

    @property
    def outcome(self) -> BaseException | None:
        """The outcome of pytest's by which an execution left the test, also one in a fork."""
        if self.left is not None or not self._left[0]:
            return self.left
        kind, reason, code = json.loads(self._left[:].rstrip(b"\0"))
        match kind:
            case "exit":
                return pytest.exit.Exception(reason, code)
            case "xfail":
                return pytest.xfail.Exception(reason)
            case _:
                # The line that skipped is known in the fork alone, so the test's own is shown.
                return pytest.skip.Exception(reason, _use_item_location=True)

    @property
    def exits(self) -> bool:
        return isinstance(self.outcome, pytest.exit.Exception)

    def _leaves(self, kind: str, left: BaseException, reason: str | None) -> None:
        self.left = self.left or left.with_traceback(_without_simulator(left.__traceback__))
        code = getattr(left, "returncode", None)
        words = json.dumps([kind, (reason or "")[:_REASON_MAX], code]).encode()
        self._left[: len(words)] = words

    async def _run(self, world: World, fixtures: dict[str, Any]) -> None:
        import asyncio

        item = self.item
        self.raised = None
        self._forget_log()
        arguments = {name: fixtures[name] for name in item._fixtureinfo.argnames}
        for name, value in arguments.items():
            if isinstance(value, _WorldToCome):
                arguments[name] = world
        try:
            if inspect.iscoroutinefunction(item.obj):
                await item.obj(**arguments)
            else:
                # It may block, and finds no loop that runs: starlette's TestClient makes its own.
                await asyncio.to_thread(item.obj, **arguments)
        except (pytest.skip.Exception, unittest.SkipTest) as exc:
            self._leaves("skip", exc, str(exc) or "skipped")
        except pytest.exit.Exception as exc:
            self._leaves("exit", exc, exc.msg)
        except pytest.xfail.Exception as exc:
            # Before `fail`, of which pytest makes it.
            self._leaves("xfail", exc, exc.msg)
        except pytest.fail.Exception as exc:
            self.raised = exc
            world.fail((exc.msg or "the test fails").splitlines()[0], raised=exc)
        except (Exception, BaseExceptionGroup) as exc:
            self.raised = exc
            raise

    def _forget_log(self) -> None:
        """So that `caplog`, and the log that a failure prints, are of one execution."""
        plugin = self.item.config.pluginmanager.get_plugin("logging-plugin")
        for name in ("caplog_handler", "report_handler"):
            handler = getattr(plugin, name, None)
            if handler is not None:
                handler.clear()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Discards what thousands of executions print, unless the test reads it."""
        if _CAPTURES & set(self.item.funcargs):
            yield
            return
        with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
            yield

    @property
    def command(self) -> str:
        return f"pytest {shlex.quote(self.item.nodeid)} --sim-replay"


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def _explore(test: _ExploredTest, settings: dict[str, Any]) -> None:
    from sim.exploration.search import explore
    from sim.exploration.verdict import Verdict

    may_pass = settings.pop("inconclusive") == "pass"
    subject = test.subject(settings)
    with test.quiet(), _misuse_told():
        report = explore(subject, **settings, watch=lambda findings, scheduler: test.exits)
    test.item.user_properties += [(_EXPLORED, report.verdict), (_EXECUTIONS, report.executions)]
    outcome = test.outcome
    if outcome is not None and (test.exits or report.verdict is not Verdict.REFUTED):
        raise outcome
    if report.was_interrupted:
        raise KeyboardInterrupt
    if report.verdict is Verdict.PROVED:
        if report.unretrieved is not None:
            _warn(UnretrievedWarning(f"{test.item.nodeid}: {report.unretrieved.text}"))
        return
    if report.verdict is Verdict.INCONCLUSIVE and may_pass:
        _warn(InconclusiveWarning(f"{test.item.nodeid}: {report.text}"))
        return
    _fail_as_expected(test, _failure_text(test, report))


@contextlib.contextmanager
def _misuse_told() -> Iterator[None]:
    from sim.kernel.errors import Misused

    try:
        yield
    except Misused as exc:
        _fail(f"@pytest.mark.explore: {exc}")


def _fail_as_expected(test: _ExploredTest, text: str) -> NoReturn:
    """By the exception itself where a mark expects it, which pytest compares: xfail(raises=…)."""
    raised = test.raised
    expected = [mark.kwargs.get("raises") for mark in test.item.iter_markers("xfail")]
    if raised is not None and any(each and isinstance(raised, each) for each in expected):
        raised.add_note(text)
        raise raised
    _fail(text)


def _warn(warning: pytest.PytestWarning) -> None:
    try:
        warnings.warn(warning, stacklevel=1)
    except pytest.PytestWarning as exc:
        # Where warnings are errors.
        _fail(str(exc))


def _failure_text(test: _ExploredTest, report: Report) -> str:
    from sim.exploration.verdict import Verdict
    from sim.kernel.errors import ScheduleDoesNotFit
    from sim.wrapped import wrapped

    counterexample = report.counterexample
    if counterexample is None:
        may_pass = report.verdict is Verdict.INCONCLUSIVE
        return f"{report.text}\n{_advice(report)}" if may_pass else report.text
    page = _page(test, report, counterexample)
    # Once more, in this process, for what it prints, logs and raises.
    with contextlib.suppress(ScheduleDoesNotFit):
        dataclasses.replace(counterexample, is_isolated=False).replay(test.program)
    text = _with_command(test, counterexample)
    lines = (*wrapped(f"{report.verdict}: {report.reason}"), _traceback_text(test), text, page)
    return "\n".join(line for line in lines if line)


def _with_command(test: _ExploredTest, found: Counterexample) -> str:
    """The text, with pytest's own command in place of ours, which cannot import a test."""
    own = f"{test.command} {shlex.quote(found.schedule)}"
    return found.text.replace(f"onestream replay {found.schedule}", own)


def _page(test: _ExploredTest, report: Report, found: Counterexample) -> str:
    """Where the page is that was asked for; empty if none was."""
    folder = test.item.config.getoption("sim_html")
    if folder is None:
        return ""
    from sim.pages.page import Page, Told
    from sim.pages.story import story_of

    with test.quiet():
        story = story_of(test.program, found)
    again = f"{test.command} {shlex.quote(found.schedule)}"
    told = Told("", story, (("replay", again),))
    file = Path(folder).resolve() / (re.sub(r"[^\w.-]+", "-", test.item.nodeid) + ".html")
    Page(test.item.nodeid, report.verdict, report.reason, stories=[told]).write(file)
    return f"page: {file.as_uri()}"


def _advice(report: Report) -> str:
    from sim.exploration.verdict import Stop

    match report.stopped:
        case Stop.OUT_OF_BUDGET | Stop.EXECUTIONS_MAX:
            what = "Give it more (--sim-budget, --sim-max-executions), or"
        case Stop.STATE_SURVIVED:
            what = (
                "Make it inside the test, since fixtures are set up once for all executions; or "
                "give each execution a fork of its own: @pytest.mark.explore(isolate=True); or"
            )
        case Stop.NONDETERMINISM:
            what = "Find what no schedule decides and make it a parameter of the test, or"
        case _ if report.labels_missing:
            what = "Let the test reach it, or take it out of `labels`, or"
        case _:
            what = "Change what the reason names, or"
    return f"{what} {_MAY_PASS}"


def _traceback_text(test: _ExploredTest) -> str:
    """Where the test itself raised, without the frames that led into it."""
    if test.raised is None:
        return ""
    test.raised.__traceback__ = _without_simulator(test.raised.__traceback__)
    found = pytest.ExceptionInfo.from_exception(test.raised)
    traceback = found.traceback
    found.traceback = traceback.cut(path=test.item.path) or traceback
    return str(found.getrepr(style="short"))


def _without_simulator(traceback: TracebackType | None) -> TracebackType | None:
    """Of the frames between the test and what it called, as in a simulated thread."""
    from sim.kernel.origin import is_of_simulator

    if traceback is None:
        return None
    after = _without_simulator(traceback.tb_next)
    if is_of_simulator(traceback.tb_frame.f_code.co_filename):
        return after
    return TracebackType(after, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


def _replay(test: _ExploredTest, text: str, settings: dict[str, Any]) -> None:
    from sim.counterexamples.counterexample import make_counterexample, replay_schedule
    from sim.kernel.errors import ScheduleDoesNotFit
    from sim.kernel.guards import guarded
    from sim.kernel.schedule import Schedule

    try:
        schedule = Schedule.parse(text)
    except ValueError as exc:
        _fail(str(exc))
    if schedule.subject != test.name:
        _fail(f"the schedule is one of {schedule.subject}, and this is {test.name}")
    digest = test.subject(settings).digest
    if digest != schedule.digest:
        _fail(
            f"the schedule was made with the digest {schedule.digest}, the code here has {digest}: "
            f"the test's file, the interpreter or a dependency is another. Run the test without "
            f"--sim-replay to get a schedule that fits"
        )
    try:
        with guarded():
            outcome = replay_schedule(test.program, schedule)
    except ScheduleDoesNotFit as exc:
        _fail(str(exc))
    if test.outcome is not None:
        raise test.outcome
    if outcome.error is not None:
        _fail(f"error: {outcome.error}")
    if outcome.violation is not None:
        with guarded(isolate=bool(settings.get("isolate"))):
            counterexample = make_counterexample(test.program, outcome, schedule)
        raised = _traceback_text(test)
        told = _with_command(test, counterexample)
        text = f"{raised}\n{told}" if raised else told
        _fail_as_expected(test, text)
    lines = [f"  {line.at:9.3f}  {line.actor}  {line.text}" for line in outcome.trace]
    head = (
        f"{test.item.nodeid}: no violation under {text}\nWhere there was one before, the test may "
        f"depend on the order of a set of strings, which is another in each process: set "
        f"PYTHONHASHSEED=0, say, to explore and to replay"
    )
    test.item.user_properties.append((_REPLAYED, "\n".join([head, *lines])))


def _fail(text: str) -> NoReturn:
    raise pytest.fail.Exception(text, pytrace=False) from None


# ---- the summary ---------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    verdicts: dict[str, int] = {}
    executions = 0
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            properties = dict(getattr(report, "user_properties", ()))
            if _REPLAYED in properties:
                terminalreporter.write_line(str(properties[_REPLAYED]))
            if _EXPLORED in properties:
                verdict = str(properties[_EXPLORED])
                verdicts[verdict] = verdicts.get(verdict, 0) + 1
                executions += int(properties[_EXECUTIONS])
    if verdicts:
        words = ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
        explored = sum(verdicts.values())
        terminalreporter.write_line(f"{explored} explored: {words}, executions {executions:,}")
