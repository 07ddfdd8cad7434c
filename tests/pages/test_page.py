"""A page is one file: all that it needs is in it, and what a program says is text."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sim import World, explore
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.cli import main
from sim.commands.pages import _BOUNDED, _about
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds
from sim.pages.acts import last_acts
from sim.pages.chart import chart_rows
from sim.pages.groups import grouped
from sim.pages.page import Cell, Line, Page, Table, Told, _coded
from sim.pages.story import story_of
from sim.replay import subject_of
from tests.pages.programs import HOSTILE, hostile_names, late_or_not, slot_that_is_lost


class _Read(HTMLParser):
    """Tags with their attributes, the text, and the JSON of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: list[object] = []
        self._open: list[str] = []
        self._kind: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._kind = dict(attrs).get("type") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._kind == "application/json":
            self.data.append(json.loads(data))
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._kind = None


def _page_of(program: object) -> Page:
    report = explore(program)  # type: ignore[arg-type]
    assert report.counterexample is not None
    story = story_of(program, report.counterexample)  # type: ignore[arg-type]
    return Page("a program", report.verdict, report.reason, stories=[Told.of("it", story)])


def test_nothing_is_loaded() -> None:
    """No address, no other file: a policy in the page forbids it as well."""
    read = _Read(_page_of(slot_that_is_lost).html)
    assert not [attrs for _, attrs in read.tags if "src" in attrs]
    links = [attrs["href"] or "" for _, attrs in read.tags if "href" in attrs]
    assert all(each.startswith("#") for each in links)
    policies = [
        attrs["content"] or ""
        for tag, attrs in read.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert [each.startswith("default-src 'none'") for each in policies] == [True]


def test_it_reads_without_scripts() -> None:
    """Every step, departure and the text for the terminal stand in the page itself."""
    page = _page_of(slot_that_is_lost)
    read = _Read(page.html)
    story = page.stories[0].story
    words = " ".join(read.text.split())
    for step in story.steps:
        assert " ".join(step.text.split()) in words
    assert story.departures[0].words in words
    assert " ".join(story.text.split()) in words


def test_it_begins_with_what_each_did_last() -> None:
    """One line for each actor, in order, then what was violated, each with the row that it is."""
    page = _page_of(slot_that_is_lost)
    story = page.stories[0].story
    acts = last_acts(story)
    assert [act["actor"] for act in acts] == ["outside", "answer", "program", ""]
    assert acts[-1]["text"] == "VIOLATED: the slot is free again"
    assert [story.steps[act["step"]].is_violation for act in acts] == [False] * 3 + [True]
    links = [attrs.get("data-step") for tag, attrs in _Read(page.html).tags if tag == "button"]
    assert [each for each in links if each] == [str(act["step"]) for act in acts]


async def who_is_named(world: World) -> None:
    """It happens in natural order."""
    world.record("is there", actor="a")
    world.check(False, "nobody is there", "a is there")


async def who_is_named_late(world: World) -> None:
    """It takes a departure, and then names an actor."""
    is_late = world.choose("a", ["at once", "late"]) == "late"
    world.record("comes", actor="a")
    world.record("is there", actor="a")
    world.check(not is_late, "a is never late", "a is late")


DEPARTURE = "The departure from natural order (what is due happens at once, nothing fails)"


@pytest.mark.parametrize(
    ("program", "title"),
    [
        (slot_that_is_lost, f"{DEPARTURE}:"),
        (late_or_not, f"{DEPARTURE}:"),
        (who_is_named, "The last steps of those that the violation names:"),
        (
            who_is_named_late,
            f"{DEPARTURE}, and the last steps of those that the violation names:",
        ),
    ],
)
def test_the_list_of_what_led_there_is_called_what_it_has(program: Program, title: str) -> None:
    """A step is no departure, and where all happens in natural order there is none."""
    assert title in _Read(_page_of(program).html).text


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("tests.pages.programs:slot_that_is_lost", "the program"),
        ("registry:racing_registers:quick_fix", "three calls of register race while"),
        ("registry:racing_registers:quick_fix", "(subjects/quick_fix.py:"),
        ("stack:leaves.async:production", "“p1 client” sends prompt p1 over simulated sockets"),
        ("server:second_prompt.async:mutant-gate_is_never_shut", "one line broken on purpose "),
        ("server:second_prompt.async:mutant-gate_is_never_shut", "what this is: a mutant"),
        ("cluster:pause:mutant-lease_is_dated_from_the_reply", "(mutants/cluster.py:"),
        ("cluster:pause:production", "prompt 1's worker v is paused for longer than its lease"),
    ],
)
def test_a_reader_is_told_what_is_played_first(subject: str, words: str) -> None:
    """The scenario, what is checked, with its file, and who the lanes are."""
    with subject_of(subject) as found:
        about = _about(subject, found.program)
    assert words in " ".join(f"{term}: {sentence}" for term, sentence in about)


def test_what_happens_in_a_scenario_is_said_without_another() -> None:
    """A page shows one: nothing in it is "the same" as in the one before."""
    described = [each.description for level in SCENARIOS_BY_LEVEL.values() for each in level]
    assert len(described) > 100
    assert not [each for each in described if each.startswith("the same")]


def test_what_a_fact_quotes_of_the_program_is_code() -> None:
    """Between backticks; what looks like HTML there is text as well, and a lone backtick stays."""
    assert _coded("it reads `a[<b>]` twice") == "it reads <code>a[&lt;b&gt;]</code> twice"
    assert _coded("a ` & b") == "a ` &amp; b"


def test_what_is_held_is_a_line_up_to_the_violation() -> None:
    """In the rows in which it holds and those of the passing execution between them, and told of
    at the foot."""
    page = _page_of(slot_that_is_lost)
    (told,) = page.stories
    steps = told.story.steps
    for step in steps[1:]:
        step.moment.held = {"answer": "has the slot"} if step.actor else {}
    violation = next(number for number, each in enumerate(steps) if each.is_violation)
    rows = chart_rows(told.story, set())
    assert [bool(row["held"]) for row in rows] == [0 < at <= violation for at in range(len(rows))]
    assert "In a column, as long as this holds of its actor: has the slot." in page.html


def test_what_is_held_begins_in_the_row_that_begins_it() -> None:
    """Although a row is noted before its step: else what begins last would have no line."""
    (told,) = _page_of(slot_that_is_lost).stories
    steps = told.story.steps
    violation = next(number for number, each in enumerate(steps) if each.is_violation)
    above = max(at for at in range(violation) if steps[at].actor and not steps[at].is_minor)
    steps[violation].moment.held = {"answer": "has the slot"}
    rows = chart_rows(told.story, set())
    assert "answer" in rows[above]["begins"]
    assert not rows[violation]["begins"]
    assert '<span class="held begins ' in Page("it", Verdict.REFUTED, stories=[told]).html


def test_a_last_act_has_what_was_done_with_it() -> None:
    """Who has an answer at the same instant was told with which status."""

    async def answered(world: World) -> None:
        world.record("has asked", actor="p1")
        await asyncio.sleep(1)
        world.record("is answered with 400", actor="p1")
        world.record("has its whole answer", actor="p1")
        world.check(False, "never")

    act = next(each for each in last_acts(_page_of(answered).stories[0].story) if each["actor"])
    assert act["text"] == "is answered with 400; has its whole answer"


def test_words_are_explained_where_they_are_used() -> None:
    """What every page says, and of the bench's words those that are on it."""
    page = _page_of(slot_that_is_lost)
    (told,) = page.stories
    assert "natural" in _Read(page.html).text
    assert "DETACHED" not in page.html
    about = [("the program", "who outlasts its grace is DETACHED")]
    explained = Page(page.title, page.verdict, stories=[replace(told, about=about)])
    assert "<dt>DETACHED</dt><dd>A stream that outlasted its grace" in explained.html


def test_counterexamples_of_one_cause_are_one_group() -> None:
    """The first is shown, the others are folded beneath it, each with its name and its own place;
    one of another property, and what passes, stand for themselves."""
    (told,) = _page_of(slot_that_is_lost).stories
    (other,) = _page_of(late_or_not).stories
    passing = replace(told.story, property="")
    stories = [
        replace(told, name="first"),
        replace(other, name="other"),
        replace(told, name="second"),
        replace(told, name="passes", story=passing),
        replace(told, name="passes too", story=passing),
    ]
    groups = grouped([each.story for each in stories])
    assert [each.numbers for each in groups] == [[0, 2], [1], [3], [4]]
    assert groups[0].line == "programs.py:18"
    read = _Read(Page("all", Verdict.REFUTED, stories=stories).html)
    sections = [attrs["id"] for tag, attrs in read.tags if (attrs.get("class") or "") == "story"]
    assert sections == ["story-0", "story-2", "story-1", "story-3", "story-4"]
    assert sum(attrs.get("class") == "same" for _, attrs in read.tags) == 1
    words = " ".join(read.text.split())
    assert "One of 2 counterexamples of one cause" in words
    assert "and the same line went wrong, programs.py:18. The others: second." in words


def test_a_word_leads_to_what_it_means() -> None:
    """From where it stands first, to a place that is on the page; not from within another word."""
    (told,) = _page_of(slot_that_is_lost).stories
    about = [("the program", "asks upstreams, then upstream: upstream is <b>")]
    html = Page("a program", Verdict.REFUTED, stories=[replace(told, about=about)]).html
    link = '<a class="word" href="#word-0-upstream">upstream</a>'
    assert f"asks upstreams, then {link}: upstream is &lt;b&gt;" in html
    assert html.count('id="word-0-upstream"') == 1


def test_what_passes_goes_on_below_the_violation() -> None:
    """Nothing stands between it and the last row before it."""
    steps = _page_of(slot_that_is_lost).stories[0].story.steps
    (at,) = [number for number, each in enumerate(steps) if each.is_violation]
    assert steps[at - 1].actor
    assert not any(each.actor for each in steps[at + 1 :])


def test_what_a_program_says_is_text() -> None:
    """Names that look like HTML, or end a script, do neither; they can be read."""
    html = _page_of(hostile_names).html
    read = _Read(html)
    assert HOSTILE not in html
    assert "img" not in {tag for tag, _ in read.tags}
    assert HOSTILE in read.text
    assert len(read.data) == 2


def test_the_data_of_each_step_is_there() -> None:
    """As many objects as rows, each with what the page shows of it."""
    page = _page_of(slot_that_is_lost)
    (steps, sources) = _Read(page.html).data
    assert isinstance(steps, list)
    assert isinstance(sources, dict)
    assert len(steps) == len(page.stories[0].story.steps)
    assert {"place", "choices", "tasks", "ready", "timers", "labels"} <= set(steps[0])


def test_times_go_forward() -> None:
    """Those of the rows are this execution's; the passing one's stand with what it does."""
    page = _page_of(late_or_not)
    story = page.stories[0].story
    rows = chart_rows(story, set())
    own = [float(each["time"]) for each in rows if each["time"]]
    assert own == sorted(own)
    beside = [(each["there"], each["there_time"]) for each in rows if each["there_time"]]
    assert ("one: one is done", "0.100") in beside


def test_rules_that_were_taken_are_a_table() -> None:
    """A label that is a rule has a row with what it says, and a rule that is not taken has none."""
    page = _page_of(slot_that_is_lost)
    rules = {"it is never reached": "no", "the client has left": "the slot is given back"}
    told = Told.of("it", page.stories[0].story, rules)
    read = _Read(Page("a program", Verdict.REFUTED, stories=[told]).html)
    rows = [
        attrs["data-label"] for tag, attrs in read.tags if tag == "tr" and "data-label" in attrs
    ]
    assert rows == ["the client has left"]
    assert "the slot is given back" in read.text


def test_a_proof_shows_what_was_looked_at(tmp_path: Path) -> None:
    """One execution that passes, step by step, and the bounds in words."""
    file = tmp_path / "page.html"
    main(["explore", "tests.pages.programs:slot_that_is_kept", "--html", str(file)])
    read = _Read(file.read_text(encoding="utf-8"))
    assert "What happens in natural order" in read.text
    assert "the model answers" in read.text
    assert "how late the loop may be" in read.text
    assert "Violated" not in read.text
    assert len(read.data) == 2


def test_every_bound_has_its_words() -> None:
    """A page may be asked for any."""
    assert set(_BOUNDED) == {"faults_max", *(field.name for field in fields(Bounds))}


def test_a_table_says_what_its_cells_say() -> None:
    """A verdict, a number with its share, a link to a counterexample."""
    row = Line([Cell("proved", is_verdict=True), Cell("1,234", share=0.5, is_number=True)])
    page = Page("it", Verdict.PROVED, tables=[Table("All", ["verdict", "executions"], [row])])
    read = _Read(page.html)
    assert "1,234" in read.text
    assert ("span", {"class": "share", "style": "--share: 0.5"}) in read.tags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explore", "tests.pages.programs:slot_that_is_lost"], "the slot is free again"),
        (
            ["check", "--registry", "quick_fix", "--scenario", "racing_registers"],
            "quick_fix does not keep S1",
        ),
        (["check", "--registry", "production", "--scenario", "second_prompt"], "every schedule"),
        (["deepen", "--size", "size-1s2r0c0l0h"], "every schedule was visited up to"),
        (["simulate", "--seeds", "2", "--level", "registry"], "What happened"),
        (
            ["mutants", "--name", "second_is_let_in_beside_the_first"],
            # A row of the protocol's table, with what it says.
            "the holder → STOPPING (StreamSuperseded); the new stream → WAITING",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_commands_write_pages(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Each into the file that was named, with its verdict and what it found."""
    file = tmp_path / "page.html"
    main([*arguments, "--html", str(file)])
    read = _Read(file.read_text(encoding="utf-8"))
    assert words in read.text
    assert [tag for tag, _ in read.tags if tag == "h1"] == ["h1"]


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("racing_registers", "quick_fix does not keep S1 one_active<"),
        ("caller_leaves_overtaken", "“a register whose caller has left does not return”<"),
    ],
)
def test_a_check_says_what_a_class_does_not_keep(scenario: str, said: str, tmp_path: Path) -> None:
    """By the property's name, or by its sentence where it has none."""
    file = tmp_path / "page.html"
    main(["check", "--registry", "quick_fix", "--scenario", scenario, "--html", str(file)])
    assert said in file.read_text("utf-8")


def test_of_mutants_it_says_that_they_are_killed(tmp_path: Path) -> None:
    """Not "proved", above a counterexample, and not in its colour: first it is said what a mutant
    is, once. No key is offered that leads nowhere."""
    file = tmp_path / "page.html"
    main(["mutants", "--name", "second_is_let_in_beside_the_first", "--html", str(file)])
    text = file.read_text(encoding="utf-8")
    assert "<title>killed: onestream mutants</title>" in text
    assert '<span class="verdict plain">killed</span>' in text
    assert text.index("Killed: the check finds what was broken") < text.index("Violated at")
    assert text.index("a mutant: production with one line broken") < text.index("Violated at")
    assert text.count("with one line broken") == 1
    assert "production was broken" not in text.lower()
    assert "Broken at registry.py:" in text
    assert "production itself is not affected" in text
    assert "proved</span>" not in text
    assert ("<kbd>d</kbd>" in text) == ("departure</a></b>" in text)


def test_a_replay_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a schedule alone; standard output has the text and nothing of the page."""
    report = explore(slot_that_is_lost)
    assert report.counterexample is not None
    file = tmp_path / "page.html"
    assert main(["replay", report.counterexample.schedule, "--html", str(file)]) == 1
    said = capsys.readouterr()
    assert file.as_uri() in said.err
    assert "file://" not in said.out
    assert "the slot is free again" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["", ".", "no/such/folder/page.html"])
def test_a_page_that_cannot_be_written_is_told_before_the_work(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As wrong usage, and not after minutes of exploring."""
    with pytest.raises(SystemExit) as ended:
        main(["explore", "tests.pages.programs:slot_that_is_lost", "--html", file])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert "--html" in said.err
    assert "refuted" not in said.out


def test_a_limit_that_is_shown_is_not_held_against_production(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page says which assumption was broken, and nowhere that production fails."""
    file = tmp_path / "limit.html"
    arguments = ["--level", "cluster", "--scenario", "limit_clock_set_forward", "--quiet"]
    assert main(["check", *arguments, "--html", str(file)]) == 0
    read = _Read(file.read_text(encoding="utf-8"))
    assert "does not keep" not in read.text
    assert "limit shown" in read.text
    assert "1 limit shown" in capsys.readouterr().out
    about = " ".join(read.text.partition("what this is")[2].split())
    assert about.startswith("a limit:")
    assert "It is A2: the store's clock is not set forward" in about


def test_the_page_of_a_check_has_all_that_its_text_has(tmp_path: Path) -> None:
    """Bounds with their values and which were hit, the digest of the code, labels by name."""
    file = tmp_path / "check.html"
    assert main(["check", "--scenario", "explicit_cancel", "--quiet", "--html", str(file)]) == 0
    text = " ".join(_Read(file.read_text(encoding="utf-8")).text.split())
    assert "passes_max 4 at how many quiet moments" in text
    assert "what a verdict covers" in text
    assert "the verdict is production's (1 proved)" in text
    assert re.search(r"code ?[0-9a-f]{8}", text)
    assert "cancelled, pressed too late, pressed while stopping" in text
