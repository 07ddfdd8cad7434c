"""What `--html FILE` writes: the page of each command's result."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.bench.actors import WHO, naming_of
from sim.bench.levels import is_of_the_bench
from sim.counterexamples.counterexample import Counterexample
from sim.counterexamples.fact import Broken
from sim.exploration.report import Report
from sim.exploration.tested_pythons import interpreter
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds, Schedule
from sim.pages.page import Cell, Line, Page, Table, Told
from sim.pages.story import natural_story, story_of
from sim.replay import subject_of

if TYPE_CHECKING:
    from sim.bench.checking.check import Checked
    from sim.bench.checking.deepen import Deepened, SizeBound
    from sim.bench.checking.jobs import Result
    from sim.bench.checking.mutants import Kill
    from sim.bench.simulation.run import SimulationReport
    from sim.bugs.matrix import Column
    from sim.exploration.request import Request

# Each is replayed, and needs some dozen executions more for what passes.
STORIES_MAX = 20


def write(page: Page, file: str) -> None:
    """Says where it is. Raises OSError where it cannot be written."""
    page.write(file)
    # Standard output may be one JSON object.
    print(f"page: {Path(file).resolve().as_uri()}", file=sys.stderr)


def page_of_exploration(request: Request, report: Report) -> Page:
    facts = [
        ("executions", f"{report.executions} in {report.seconds:.1f} s"),
        ("strategy", report.strategy),
        *([("claim", report.claim)] if report.claim else []),
        *([] if report.counterexample is None else [("bounds", str(report.bounds))]),
        ("labels reached", ", ".join(sorted(report.labels)) or "none"),
        ("interpreter", interpreter()),
        ("code", report.digest),
    ]
    stories = _stories([("", report.counterexample)])
    unretrieved = report.unretrieved.text if report.unretrieved is not None else ""
    rest = "\n".join(filter(None, (report.unconfirmed, unretrieved)))
    # A counterexample comes first, and needs no bounds to be one.
    tables = [] if stories else [_bounds([report])]
    if report.verdict is Verdict.PROVED:
        stories += _natural(request, report)
    return Page(str(request.program), report.verdict, report.reason, facts, tables, stories, rest)


def _natural(request: Request, report: Report) -> list[Told]:
    with subject_of(str(request.program)) as subject:
        story = natural_story(subject.program, report.bounds)
        about = _about(str(request.program), subject.program)
    return [] if story is None else [Told.of("", story, about=about)]


_BOUNDED = {
    "lateness_s": "how late the loop may be for its timers, in seconds",
    "passes_max": "at how many quiet moments an outside event without a latest time may be passed "
    "over",
    "spin_max": "after how many iterations without rest the clock moves on",
    "horizon_s": "when an execution that is not over counts as one that never ends, in seconds",
    "step_lines_max": "after how many lines a step counts as one that never ends",
    "entropy_seed": "what the program draws where it draws at random",
    "unretrieved_fails": "whether an exception that nobody retrieves is a violation",
    "own_lines": "whether threads are overtaken between the lines of the program's own module",
    "set_order": "in which of many orders sets of tasks iterate",
    "timers_apart": "whether timers of one instant may fire apart, and in another order",
    "signal_lines": "whether handlers of signals run between the lines of the program's own module",
    "equal_readings": "which readings of the wall clock show what the last one did",
    "collections": "at which polls the garbage collector runs",
    "clock_s": "what time.monotonic() and the loop's clock show at the beginning",
    "wall_s": "what time.time() shows at the beginning",
    "time_limits": "around the end of which time limits of the program's own outside events may "
    "land, in seconds",
    "faults_max": "how many faults may happen in an execution",
    "cpus": "how many CPUs the machine has, by which asyncio's default pool has its threads",
}


def _bounds(reports: Sequence[Report]) -> Table:
    """Within which the verdict holds; one that was hit kept executions from going on."""
    shown: dict[str, str] = {}
    for report in reports:
        # One that is hit may have a value of its own, and one as it always is stands in no text.
        named = [each for each in sorted(report.bounds_hit) if "=" in each]
        shown |= dict(each.split("=") for each in [*str(report.bounds).split(", "), *named])
    hit = {each.partition("=")[0] for report in reports for each in report.bounds_hit}
    shown |= {name: _value(reports[0].bounds, name) for name in sorted(hit - shown.keys())}
    rows = [
        Line(
            [
                Cell(name),
                _number(value),
                Cell("hit" if name in hit else ""),
                Cell(_BOUNDED[name]),
            ]
        )
        for name, value in shown.items()
    ]
    return Table(
        "Bounds within which it was explored",
        ["bound", "value", "hit", "what it bounds"],
        rows,
        is_below=True,
    )


def _value(bounds: Bounds, name: str) -> str:
    return f"{getattr(bounds, name):.13g}"


def page_of_counterexample(found: Counterexample) -> Page:
    schedule = Schedule.parse(found.schedule)
    facts = [("schedule", found.schedule), ("interpreter", interpreter())]
    stories = _stories([("", found)])
    return Page(schedule.subject, Verdict.REFUTED, "", facts, (), stories)


def page_of_check(checked: Checked, notes: str) -> Page:
    from sim.bench.checking.jobs import in_words

    results = checked.results
    found = [
        (f"{each.registry}, {each.scenario}", each.report.counterexample)
        for each in results
        if each.report.counterexample is not None
    ]
    most = max((each.report.executions for each in results), default=1)
    numbers = {name: number for number, (name, _) in enumerate(found[:STORIES_MAX])}
    rows = [
        Line(
            [
                Cell(each.shown_verdict, is_verdict=True),
                Cell(each.level),
                Cell(each.registry),
                Cell(each.scenario, story=numbers.get(f"{each.registry}, {each.scenario}")),
                Cell(each.limit or each.report.claim or each.report.reason),
                _number(f"{each.report.executions:,}", each.report.executions / most),
                _number(f"{each.report.seconds:.2f}"),
                _labels(each),
                Cell(", ".join(sorted(each.report.bounds_hit))),
            ]
        )
        for each in results
    ]
    columns = [
        "verdict",
        "level",
        "registry",
        "scenario",
        "claim, or why",
        "executions",
        "seconds",
        "labels",
        "bounds hit",
    ]
    digests = dict.fromkeys(each.report.digest for each in results)
    facts = [
        ("results", in_words(results)),
        *([("not applicable", _not_applicable(checked))] if checked.not_applicable else []),
        *([("never taken", "; ".join(checked.rows_missing))] if checked.rows_missing else []),
        ("interpreter", interpreter()),
        ("code", ", ".join(digests)),
    ]
    tables = [
        Table("Scenarios", columns, rows),
        _bounds([each.report for each in results]),
    ]
    title, stories = "onestream check", _stories(found)
    return Page(title, checked.verdict, _refuted(checked), facts, tables, stories, notes)


def _labels(result: Result) -> Cell:
    """How many it reached, with their names, and those it should have."""
    reached, missing = result.labels, result.report.labels_missing
    text = f"{len(reached)}" + (f", not {', '.join(missing)}" if missing else "")
    return Cell(text, more=", ".join(reached))


def _not_applicable(checked: Checked) -> str:
    return ", ".join(f"{scenario} to {registry}" for registry, scenario in checked.not_applicable)


def _refuted(checked: Checked) -> str:
    """Whose verdict it is, which class does not keep what, and that assumptions were broken."""
    from sim.bench.checking.jobs import in_words
    from sim.bench.subjects import PRODUCTION

    kept_not: dict[str, dict[str, None]] = {}
    for each in checked.results:
        if each.report.counterexample is not None and not each.limit:
            of_class = kept_not.setdefault(each.registry, {})
            of_class[_called(each.report.counterexample.property)] = None
    told = [f"{name} does not keep {', '.join(each)}" for name, each in kept_not.items()]
    own = [each for each in checked.results if each.registry == PRODUCTION]
    if 0 < len(own) < len(checked.results):
        # The published ones stand beside it.
        told.insert(0, f"the verdict is production's ({in_words(own)})")
    if any(each.limit for each in checked.results):
        told.append("what lies outside of the assumptions that limits name is not promised")
    return "; ".join(told)


def _called(what: str) -> str:
    """`S1 one_active` of a property that has a name; the sentence of one that has none."""
    name, colon, _ = what.partition(":")
    return name if colon else f"“{what}”"


def page_of_simulation(report: SimulationReport) -> Page:
    happened = report.happened
    simulation = report.simulation
    facts = [
        ("level", simulation.level),
        ("registry", simulation.registry),
        ("profiles", ", ".join(simulation.profiles)),
        ("seeds", f"{report.first_seed} to {report.first_seed + report.seeds - 1}"),
        ("seconds", f"{report.seconds:.1f}"),
        ("interpreter", interpreter()),
        ("digest", report.digest),
    ]
    latencies = {name: f"{at:.3f} s" for name, at in happened.quantiles().items() if at is not None}
    tables = [
        _counts("What happened", happened.counts),
        _counts("Faults", happened.faults),
        Table(
            "Latency of admission, virtual seconds",
            ["quantile", "seconds"],
            [Line([Cell(name), _number(text)]) for name, text in latencies.items()],
        ),
    ]
    stories = _stories([("", report.counterexample)])
    return Page("onestream simulate", report.verdict, report.reason, facts, tables, stories)


def page_of_deepening(
    results: Sequence[Deepened], largest: Sequence[SizeBound], verdict: Verdict
) -> Page:
    most = max((each.report.executions for each in results), default=1)
    rows = [
        Line(
            [
                Cell(str(each.report.verdict), is_verdict=True),
                Cell(str(each.bound)),
                _number(f"{each.report.executions:,}", each.report.executions / most),
                _number("" if each.states is None else f"{each.states:,}"),
                _number(f"{each.report.seconds:.1f}"),
            ]
        )
        for each in results
    ]
    table = Table("Sizes", ["verdict", "size", "executions", "states", "seconds"], rows)
    found = [(str(each.bound), each.report.counterexample) for each in results]
    facts = [
        ("every schedule was visited up to", "; ".join(map(str, largest)) or "none"),
        ("interpreter", interpreter()),
    ]
    return Page("onestream deepen", verdict, "", facts, [table], _stories(found))


def page_of_mutants(kills: Sequence[Kill]) -> Page:
    """With the counterexamples of the first, or of the one that was asked for."""
    survivors = [each for each in kills if not each.is_killed]
    killed = [each for each in kills if each.is_killed]
    numbers = {each.mutant: number for number, each in enumerate(killed[:STORIES_MAX])}
    rows = [
        Line(
            [
                Cell("killed" if each.is_killed else "SURVIVES"),
                Cell(each.level),
                Cell(each.mutant, story=numbers.get(each.mutant)),
                Cell(each.story),
                Cell(each.killer),
                Cell(each.scenario),
                _number(f"{each.executions:,}"),
                _number(f"{each.seconds:.1f}"),
            ]
        )
        for each in kills
    ]
    columns = [
        "result",
        "level",
        "mutant",
        "what is broken",
        "killed by",
        "scenario",
        "executions",
        "seconds",
    ]
    found = [
        (each.mutant, Counterexample(each.violated, each.schedule, each.text)) for each in killed
    ]
    verdict = Verdict.REFUTED if survivors else Verdict.PROVED
    reason = (
        f"{len(survivors)} of {len(kills)} survive: no scenario notices that they are broken"
        if survivors
        else "Killed: the check finds what was broken to test it. That is a success, and "
        "production itself is not affected."
    )
    facts = [("killed", f"{len(killed)} of {len(kills)}"), ("interpreter", interpreter())]
    table = Table("Mutants", columns, rows)
    said = "survives" if survivors else "killed"
    stories = _stories(found)
    title = "onestream mutants"
    return Page(title, verdict, reason, facts, [table], stories, said=said, is_plain=not survivors)


def page_of_bugs(columns: Sequence[Column]) -> Page:
    from sim.bugs import matrix

    holds = all(each.holds for each in columns)
    header, *lines = matrix.as_rows(columns)
    rows = [Line([Cell(text) for text in line]) for line in lines]
    reason = "every verdict is the expected one" if holds else "some verdict is not the expected"
    verdict = Verdict.PROVED if holds else Verdict.REFUTED
    table = Table("Bugs by version", header, rows)
    said = "as expected" if holds else "not as expected"
    return Page("onestream bugs", verdict, reason, (), [table], said=said)


def _stories(found: Iterable[tuple[str, Counterexample | None]]) -> list[Told]:
    stories: list[Told] = []
    for name, each in found:
        if each is not None and len(stories) < STORIES_MAX:
            named = Schedule.parse(each.schedule).subject
            # What it replaces is still in its place.
            broken = _broken(named)
            with subject_of(named) as subject:
                story = story_of(subject.program, each, naming_of(named), broken)
                about = _about(named, subject.program)
            stories.append(Told.of(name, story, _rules(named), about))
    return stories


# What is checked at each level, for who has not heard of it.
_CHECKED = {
    "registry": "a registry of chat streams: who sends a prompt awaits its `register`, which lets "
    "one prompt of a session in at a time and stops the one before",
    "server": "a chat server in front of Ollama: a new prompt of a session stops the one before, "
    "and asks Ollama once that is over, or DETACHED: fenced off, as it outlasted its grace of 2 s",
    "stack": "a chat server in front of Ollama, on uvicorn and sockets: a new prompt of a session "
    "stops the one before, and asks Ollama (its upstream call) once that is over, or DETACHED: "
    "fenced off, since it outlasted its grace of 2 s",
    "cluster": "chat servers, called workers, that share a store: a prompt that is let in holds a "
    "lease of its session, which it renews, and while that lasts its gate is open: it may send",
}


_MUTANT = (
    "a mutant: {}, to test whether the check notices; this is the execution in which it does, and "
    "how the broken copy fails. Production is not refuted"
)


_LIMIT = (
    "a limit: an execution in which an assumption does not hold, to show that the promise rests on "
    "it. Within its assumptions production is not refuted. It is {}"
)


def _broken(subject: str) -> Broken | None:
    if not is_of_the_bench(subject):
        return None
    from sim.bench.entry import Entry
    from sim.bench.subjects.mutants import counterparts, mutant_of, replaced_by

    mutant = mutant_of(Entry.parse(subject).registry)
    if mutant is None:
        return None
    code = mutant.breaks.__code__
    replaced = tuple(each.co_name for each in replaced_by(mutant))
    return Broken(code, mutant.line, mutant.description, counterparts(mutant), replaced)


def _about(subject: str, program: Program) -> list[tuple[str, str]]:
    """What a reader has to know first."""
    if not is_of_the_bench(subject):
        sentence = (inspect.getdoc(program) or "").partition("\n\n")[0]
        return [("the program", sentence)] if sentence else []
    from sim.bench.catalog import description_of, limit_shown_by
    from sim.bench.entry import Entry
    from sim.bench.subjects.mutants import mutant_of

    entry = Entry.parse(subject)
    is_mutant, words = mutant_of(entry.registry) is not None, entry.subject_in_words
    limit = limit_shown_by(entry)
    about = [
        ("what this is", _MUTANT.format(words) if is_mutant else ""),
        ("what this is", _LIMIT.format(limit) if limit and not is_mutant else ""),
        ("the program", _CHECKED[entry.level] + ("" if is_mutant else f"; here: {words}")),
        ("what happens", description_of(entry)),
        ("who is who", WHO[entry.level]),
    ]
    return [(term, sentence) for term, sentence in about if sentence]


def _rules(subject: str) -> dict[str, str]:
    """The rows of the protocol's table, which are labels where the bench observes it."""
    if not is_of_the_bench(subject):
        return {}
    from sim.bench.harness.row_words import words_of_rows

    return words_of_rows()


def _number(text: str, share: float | None = None) -> Cell:
    return Cell(text, share=share, is_number=True)


def _counts(title: str, counts: dict[str, int]) -> Table:
    most = max(counts.values(), default=0) or 1
    rows = [
        Line([Cell(name), _number(f"{count:,}", count / most)]) for name, count in counts.items()
    ]
    return Table(title, ["what", "count"], rows)
