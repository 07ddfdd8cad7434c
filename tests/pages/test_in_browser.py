"""Pages in Chromium: steps, keys, search, copying, a long way, dark and narrow, for everybody."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim import explore
from sim.kernel.execution import Program
from sim.pages.page import Cell, Line, Page, Table, Told
from sim.pages.story import story_of
from tests.pages.programs import (
    four_hundred_steps,
    hostile_names,
    many_lanes,
    slot_that_is_lost,
    two_withdrawals,
    with_a_bystander,
)

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for each program, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    programs: list[Program] = [
        slot_that_is_lost,
        four_hundred_steps,
        hostile_names,
        two_withdrawals,
        many_lanes,
        with_a_bystander,
    ]
    written = {each.__name__: _written(each, folder) for each in programs}
    return {**written, "two_of_them": _written(slot_that_is_lost, folder, times=2)}


@pytest.fixture(scope="module")
def browser(files: dict[str, Path]) -> Iterator[Any]:
    """After the pages: playwright keeps a loop in this thread, and explore wants none."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def _written(program: Program, folder: Path, times: int = 1) -> Path:
    report = explore(program)
    assert report.counterexample is not None
    rules = {"the client has left": "its slot is given back"}
    told = Told.of("it", story_of(program, report.counterexample), rules)
    file = folder / f"{program.__name__}{times}.html"
    cells = [Cell("refuted", is_verdict=True), Cell("it", story=0), Cell("1", more="done")]
    table = Table("All", ["verdict", "scenario", "labels"], [Line(cells)])
    page = Page(program.__name__, report.verdict, report.reason, (), [table], [told] * times)
    page.write(file)
    return file


class _Opened:
    """A page in the browser, with what its console said."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page = page
        self.said: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(file.as_uri())

    @property
    def selected(self) -> str:
        return str(self.page.inner_text(".step.selected .box"))

    @property
    def told(self) -> str:
        return str(self.page.inner_text(".detail"))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture
def opened(browser: Any, files: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Any]:
    """By the name of the program, with the browser's options after it."""
    name, options = request.param
    context = browser.new_context(**options)
    opened = _Opened(context.new_page(), files[name])
    yield opened
    context.close()
    assert opened.said == []


def _of(name: str, **options: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", [(name, options)], indirect=True, ids=[name])


@_of("slot_that_is_lost")
def test_it_opens_at_the_violation_below_the_line_that_went_wrong(opened: _Opened) -> None:
    """The row and those before it are in the window, and beside them no line of the check's."""
    assert "VIOLATED" in opened.selected
    assert opened.page.locator(".detail .here").count() == 0
    here = opened.page.inner_text(".source .here >> nth=0")
    assert 'await world.outside("the model answers")' in here
    assert opened.page.evaluate(
        "(() => { const box = document.querySelector('.selected').getBoundingClientRect();"
        " return box.bottom <= window.innerHeight && box.top > 0; })()"
    )


@_of("two_of_them")
def test_a_link_to_a_later_one_shows_its_violation(opened: _Opened) -> None:
    """It is of the same cause and unfolds; its chart ends with the window that begins with it, and
    the row has its time."""
    assert not opened.page.locator("#story-1").is_visible()
    opened.page.click('a[href="#story-1"]')
    opened.page.locator("#story-1 .selected").wait_for()
    row = opened.page.locator("#story-1 .selected")
    bottom = row.evaluate("row => row.getBoundingClientRect().bottom - window.innerHeight")
    assert bottom <= 0
    assert row.locator("> .time").is_visible()
    assert row.locator("> .time").inner_text() == "0.000"


@_of("four_hundred_steps")
def test_long_lists_are_folded(opened: _Opened) -> None:
    """Of eight tasks it says how many they are, and they open."""
    opened.page.check("input.every")
    opened.page.focus(".chart")
    opened.press("Home", *["ArrowDown"] * 30)
    folded = opened.page.locator(".detail details", has_text="tasks (")
    assert folded.count() == 1
    assert not folded.get_by_text("clock 1 waits").is_visible()
    folded.locator("summary").click()
    assert folded.get_by_text("clock 1 waits").is_visible()


@_of("slot_that_is_lost")
def test_a_step_has_what_was_free_and_what_was_taken(opened: _Opened) -> None:
    """At the first difference, to which a key leads."""
    opened.press("f")
    assert "the client leaves" in opened.selected
    assert "the model answers (natural)" in opened.told
    assert "the client leaves (taken)" in opened.told


@_of("slot_that_is_lost")
def test_arrow_keys_step(opened: _Opened) -> None:
    """Down and up, to the end and back to where the order departs."""
    opened.press("f")
    opened.press("ArrowDown")
    assert "the model answers" in opened.selected
    opened.press("ArrowDown")
    assert "goes on in slot_that_is_lost" in opened.selected
    opened.press("End")
    assert "VIOLATED" in opened.selected
    assert "world.check(not slots.locked()" in opened.told
    opened.press("d")
    assert "the client leaves" in opened.selected
    opened.press("Home")
    assert "begins in answer" in opened.selected


@_of("slot_that_is_lost")
def test_a_rule_is_lit_at_the_step_that_takes_it(opened: _Opened) -> None:
    """Before it stands as one that comes later; the step says it, too."""
    row = opened.page.locator(".rules tbody tr")
    opened.press("Home")
    assert row.get_attribute("class") == "later"
    opened.press("End")
    assert row.get_attribute("class") == "lit"
    assert "the client has left: its slot is given back" in opened.told


@_of("slot_that_is_lost")
def test_a_departure_leads_to_its_step(opened: _Opened) -> None:
    """From the sentence to the row."""
    opened.press("End")
    opened.page.click(".departures button")
    assert "the client leaves" in opened.selected


@_of("slot_that_is_lost")
def test_arrows_are_drawn_between_lanes(opened: _Opened) -> None:
    """As many as there are causes in other lanes, and none of no length."""
    boxes = opened.page.eval_on_selector_all(
        ".wires > path", "paths => paths.map(path => path.getTotalLength())"
    )
    assert len(boxes) >= 3
    assert min(boxes) > 4


@_of("slot_that_is_lost")
def test_search_finds_and_steps(opened: _Opened) -> None:
    """With the key for it; Enter goes from one to the next, and around."""
    opened.press("/")
    opened.page.keyboard.type("answers")
    assert "found" in opened.page.inner_text(".found")
    opened.press("Enter")
    assert "the model answers" in opened.selected


@_of("slot_that_is_lost", permissions=["clipboard-read", "clipboard-write"])
def test_a_command_is_copied(opened: _Opened) -> None:
    """That which replays it, as it can be pasted."""
    opened.page.click("button.copy >> nth=0")
    opened.page.wait_for_function("document.querySelector('button.copy').textContent === 'Copied'")
    text = opened.page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("onestream replay os2/tests.pages.programs:slot_that_is_lost/")


@_of("slot_that_is_lost", viewport={"width": 400, "height": 800})
def test_no_line_of_source_is_cut(opened: _Opened) -> None:
    """In a narrow window they go on below; no box scrolls, and the first marked one is in view."""
    cut = (
        "of => of.filter(each => each.scrollWidth > each.clientWidth"
        " || each.scrollHeight > each.clientHeight).map(each => each.innerText)"
    )
    assert opened.page.eval_on_selector_all(".source pre, .detail pre", cut) == []
    assert opened.page.eval_on_selector(
        ".source pre",
        "pre => { const first = pre.querySelector('.here').getBoundingClientRect();"
        " const box = pre.getBoundingClientRect();"
        " return first.top >= box.top && first.bottom <= box.bottom; }",
    )


@_of("four_hundred_steps")
def test_a_long_way_can_be_walked(opened: _Opened) -> None:
    """Of 400 steps and more each can be selected, and is in view then, below the names."""
    assert opened.page.locator(".step").count() > 400
    opened.page.check("input.every")
    opened.page.focus(".chart")
    in_view = (
        "(() => { const chart = document.querySelector('.chart').getBoundingClientRect();"
        " const names = document.querySelector('.head').getBoundingClientRect();"
        " const step = document.querySelector('.selected').getBoundingClientRect();"
        " return step.bottom <= chart.bottom + 1 && step.top >= names.bottom - 1; })()"
    )
    opened.press("Home", *["ArrowDown"] * 40)
    assert opened.page.evaluate(in_view)
    opened.press(*["ArrowUp"] * 30)
    assert opened.page.evaluate(in_view)
    opened.press("End")
    assert "VIOLATED" in opened.selected
    assert opened.page.evaluate(in_view)


@_of("hostile_names")
def test_what_a_program_says_does_nothing(opened: _Opened) -> None:
    """A name that looks like a script is shown, and not run."""
    opened.press("Home", "ArrowDown", "ArrowDown", "End")
    assert opened.page.locator("img").count() == 0
    assert "<img src=x onerror=alert(1)>" in opened.page.inner_text("h2")


@pytest.mark.parametrize(
    "opened",
    [
        (name, {"color_scheme": scheme, "viewport": {"width": width, "height": 900}})
        for name in ("slot_that_is_lost", "hostile_names", "four_hundred_steps", "two_withdrawals")
        for scheme in ("light", "dark")
        for width in (400, 1400)
    ],
    indirect=True,
    ids=lambda value: f"{value[0]}-{value[1]['color_scheme']}-{value[1]['viewport']['width']}",
)
def test_everybody_can_use_it(opened: _Opened) -> None:
    """axe finds nothing serious, and the page is no wider than its window."""
    found = axe.Axe().run(opened.page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(wider) <= 0


@_of("slot_that_is_lost", java_script_enabled=False)
def test_it_reads_without_scripts(opened: _Opened) -> None:
    """The rows, and the text, which opens."""
    assert "is cancelled by program" in opened.page.inner_text(".steps")
    opened.page.click(".text summary")
    assert "first difference" in opened.page.inner_text(".text pre")


@_of("four_hundred_steps")
def test_the_whole_run_leads_to_each_instant(opened: _Opened) -> None:
    """With a click and with keys: the step is selected, in view, and marked as such."""
    opened.page.check("input.every")
    strip = opened.page.locator(".overview svg")
    box = strip.bounding_box()
    assert box is not None
    strip.click(position={"x": box["width"] / 2, "y": 4})
    time = float(opened.page.inner_text(".step.selected > .time"))
    assert 1.8 < time < 2.2
    opened.press("ArrowDown")
    later = float(opened.page.inner_text(".step.selected > .time"))
    assert later > time
    assert strip.get_attribute("aria-valuetext") == f"{later:g} seconds"
    opened.press("ArrowUp")
    assert float(opened.page.inner_text(".step.selected > .time")) == time
    view = opened.page.locator(".overview .in-view")
    left, width = (float(str(view.get_attribute(each))[:-1]) for each in ("x", "width"))
    now = float(str(opened.page.locator(".overview .now").get_attribute("x1"))[:-1])
    assert left <= now <= left + width
    assert width < 20


@_of("two_withdrawals")
def test_a_step_shows_its_values_and_what_it_changed(opened: _Opened) -> None:
    """What was there before it is struck out; where nothing changed nothing is marked."""
    opened.page.get_by_text("goes on in withdraw").first.click()
    row = opened.page.locator(".values .changed")
    assert row.locator("del").inner_text() == "100"
    assert row.inner_text().endswith("90")
    opened.press("ArrowDown")
    assert opened.page.locator(".values .changed").count() == 0
    opened.press("End")
    assert "balance" in opened.page.inner_text(".values")


@_of("four_hundred_steps")
def test_it_says_how_many_rows_are_above_those_in_view(opened: _Opened) -> None:
    """And leads to the first of them, where nothing is above."""
    opened.page.check("input.every")
    opened.page.focus(".chart")
    opened.press("End")
    earlier = opened.page.locator(".earlier")
    assert re.fullmatch(r"↑ \d{2,3} rows before: go to the beginning", earlier.inner_text())
    earlier.click()
    assert opened.page.locator(".chart").evaluate("chart => chart.scrollTop") == 0
    first = opened.page.locator(".step:visible").first
    assert "selected" in str(first.get_attribute("class"))
    earlier.wait_for(state="hidden")


@_of("slot_that_is_lost")
def test_a_column_is_hidden_by_a_click_and_comes_back(opened: _Opened) -> None:
    """With its rows and its width; the violation stays."""
    name = opened.page.locator(".head .lane button", has_text="outside")
    rows = opened.page.locator(".step:visible")
    before, width = rows.count(), name.bounding_box()["width"]
    assert width > 0
    name.click()
    opened.page.locator(".hidden-lanes button", has_text="outside").wait_for()
    assert rows.count() < before
    assert not opened.page.locator(".step:visible .box[data-actor=outside]").count()
    assert opened.page.locator(".step.violation").is_visible()
    opened.page.click(".hidden-lanes button")
    assert rows.count() == before
    assert opened.page.locator(".hidden-lanes").inner_text() == ""


@_of("slot_that_is_lost")
def test_every_column_can_be_hidden(opened: _Opened) -> None:
    """Then what passes and the violation are left, and keys still step."""
    for _ in range(3):
        opened.page.locator(".head .lane button:visible").first.click()
    opened.press("Home", "End")
    assert "VIOLATED" in opened.selected


@_of("four_hundred_steps")
def test_search_says_which_one_it_is_and_goes_back(opened: _Opened) -> None:
    """Shift+Enter is the way back, around the first; what is hidden is counted."""
    found = opened.page.locator(".found")
    opened.press("/")
    opened.page.keyboard.type("clock 1")
    assert re.fullmatch(r"0 found, \d+ more in steps that are hidden", found.inner_text())
    opened.page.check("input.every")
    opened.page.focus(".chart")
    opened.press("Home", "/")
    opened.page.fill(".search", "clock 1")
    count = int(re.search(r"(\d+) found", found.inner_text())[1])
    at = 1
    for key, by in (("Enter", 1), ("Enter", 1), ("Shift+Enter", -1)):
        opened.press(key)
        at += by
        assert found.inner_text() == f"{at} of {count} found"
    opened.press(*["Shift+Enter"] * at)
    assert found.inner_text() == f"{count} of {count} found"
    opened.page.click(".next")
    assert found.inner_text() == f"1 of {count} found"


@_of("two_withdrawals")
def test_a_value_leads_to_the_steps_that_change_it(opened: _Opened) -> None:
    """A click on its name finds them, also where no row says its name."""
    opened.page.click('.values button:text-is("balance")')
    assert opened.page.input_value(".search") == "balance"
    changed = opened.page.locator(".values .changed", has_text="balance")
    seen = []
    for _ in range(opened.page.locator(".step.found-here").count()):
        opened.page.click(".next")
        seen += changed.all_inner_texts()
    assert seen[0].endswith("90")


@_of("with_a_bystander")
def test_values_of_who_is_not_in_question_are_folded(opened: _Opened) -> None:
    """Neither of those whom the facts name, nor of the program, whose variable these share."""
    folded = opened.page.locator(".detail details", has_text="of others: looks on")
    assert not folded.get_by_text("'full'").is_visible()
    assert opened.page.locator(".detail > .values", has_text="balance").is_visible()
    folded.locator("summary").click()
    assert folded.get_by_text("'full'").is_visible()


@_of("slot_that_is_lost", viewport={"width": 390, "height": 844})
def test_in_a_narrow_window_a_row_says_whose_it_is(opened: _Opened) -> None:
    """There is no room for columns: nothing of a row is beyond the window."""
    assert not opened.page.locator(".head .lane").first.is_visible()
    said = opened.page.locator(".box[data-actor=outside]").first
    assert said.evaluate("box => getComputedStyle(box, '::before').content") == '"outside: "'
    beyond = (
        "chart => [chart.scrollWidth - chart.clientWidth,"
        " ...[...chart.querySelectorAll('.box')].map(box => box.scrollWidth - box.clientWidth)]"
    )
    assert max(opened.page.eval_on_selector(".chart", beyond)) <= 0


@_of("many_lanes", viewport={"width": 1280, "height": 800})
def test_eleven_columns_need_no_scroll(opened: _Opened) -> None:
    """At 1280 pixels, with what passes beside them."""
    assert opened.page.locator(".head .lane:visible").count() == 11
    beyond = "chart => chart.scrollWidth - chart.clientWidth"
    assert opened.page.eval_on_selector(".chart", beyond) <= 0
