"""The server's own page in Chromium: prompts, Stop, a hang, a reload, keys, the keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.pages.served import Served, served

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
# Of what is expected of the page; only a bound on hanging.
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """With a key, and an Ollama that may be silent for two seconds."""
    with served(api_keys="the-key", stream_inactivity_seconds=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


class Opened:
    """The page in a window, with what its console said; `expected` of that is no error."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.said: list[str] = []
        self.expected = "(?!)"
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(url)

    def use_key(self, key: str = "the-key") -> None:
        self.page.fill("#key", key)
        self.page.press("#key", "Enter")

    def connect(self) -> None:
        self.use_key()
        self.page.wait_for_selector("#link.live")
        self.page.wait_for_selector('option[value="fake:slow"]', state="attached")

    def session(self, number: int) -> Any:
        return self.page.locator(".session").nth(number)

    def send(self, number: int, text: str, model: str = "fake:normal", **chosen: str) -> None:
        session = self.session(number)
        session.locator("select.model").select_option(model)
        if "strategy" in chosen:
            session.locator("select.strategy").select_option(chosen["strategy"])
        session.locator(".prompt").fill(text)
        session.locator(".prompt").press("Enter")

    def turn(self, number: int, turn: int) -> Any:
        return self.session(number).locator(".turn").nth(turn)

    def says(self, locator: Any, text: str) -> None:
        """It does, or will."""
        sync_api.expect(locator).to_contain_text(text, timeout=PATIENCE_MS)

    def state(self, number: int, turn: int, state: str) -> None:
        self.says(self.turn(number, turn).locator(".fate .state"), state)

    @property
    def errors(self) -> list[str]:
        return [each for each in self.said if not re.search(self.expected, each)]


_IN_LOW_WINDOW = pytest.mark.parametrize(
    "opened", [{"viewport": {"width": 1280, "height": 400}}], indirect=True, ids=["low"]
)


@pytest.fixture
def opened(browser: Any, server: Served, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """In a window with the options that the test asks for."""
    context = browser.new_context(**getattr(request, "param", {}))
    found = Opened(context, server.url)
    yield found
    context.close()
    assert found.errors == []


def test_a_second_prompt_stops_the_first(opened: Opened) -> None:
    """While it streams: the first says that it was superseded, the second is answered whole."""
    opened.connect()
    opened.send(0, "a long one", "fake:slow")
    opened.says(opened.turn(0, 0).locator(".answer"), "a long one word1")
    opened.state(0, 0, "ACTIVE")
    opened.send(0, "a short one")
    opened.state(0, 0, "superseded")
    opened.state(0, 1, "ENDED")
    opened.says(opened.turn(0, 1).locator(".answer"), "a short one word1")
    # Both stand among the streams, the newer first, with what they went through.
    first = opened.page.locator("#streams tr").nth(1)
    opened.says(first, "superseded")
    assert opened.page.evaluate(
        "[...document.querySelectorAll('#streams tr:nth-child(2) .life span')]"
        ".map(span => span.className).includes('ACTIVE')"
    )


def test_sessions_do_not_disturb_one_another(opened: Opened) -> None:
    """Two stream at a time, side by side."""
    opened.connect()
    opened.send(0, "here", "fake:slow")
    opened.send(1, "there", "fake:slow")
    opened.state(0, 0, "ACTIVE")
    opened.state(1, 0, "ACTIVE")
    boxes = [opened.session(number).bounding_box() for number in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    opened.session(0).locator(".prompt").press("Escape")
    opened.state(0, 0, "cancelled")
    opened.state(1, 0, "ACTIVE")
    opened.session(1).locator(".stop").click()
    opened.state(1, 0, "cancelled")


def test_stop_ends_the_answer(opened: Opened) -> None:
    """What came of it stays, Stop is of no use any more, and a next prompt is answered."""
    opened.connect()
    opened.send(0, "stop me", "fake:slow")
    opened.says(opened.turn(0, 0).locator(".answer"), "word1")
    opened.session(0).locator(".stop").click()
    opened.state(0, 0, "cancelled")
    opened.says(opened.turn(0, 0), "Stopped: a client asked for it.")
    opened.says(opened.turn(0, 0).locator(".answer"), "stop me word1")
    sync_api.expect(opened.session(0).locator(".stop")).to_be_disabled()
    opened.send(0, "and on")
    opened.state(0, 1, "ENDED")


def test_stop_before_the_first_word(opened: Opened) -> None:
    """The server has named no stream yet; it is stopped all the same."""
    opened.expected = "400"
    opened.connect()
    opened.send(0, "nothing comes", "fake:hang-before-headers")
    sync_api.expect(opened.session(0).locator(".stop")).to_be_enabled()
    opened.session(0).locator(".stop").click()
    opened.state(0, 0, "cancelled")
    opened.says(opened.page.locator("#streams tr").first, "cancelled")


def test_a_hang_is_seen_and_said(opened: Opened) -> None:
    """First that nothing comes, then which limit has ended it, in the server's sentence."""
    opened.connect()
    opened.send(0, "hang", "fake:hang-midstream")
    opened.state(0, 0, "upstream_silent")
    opened.says(opened.turn(0, 0), "JARVIS_STREAM_INACTIVITY_SECONDS")
    opened.says(opened.turn(0, 0).locator(".answer"), "hang word1")


def test_a_prompt_may_wait_or_be_rejected(opened: Opened) -> None:
    """As its strategy says: the one behind the first, the other not at all."""
    opened.expected = "409"
    opened.connect()
    opened.send(0, "first", "fake:slow")
    opened.state(0, 0, "ACTIVE")
    opened.send(0, "second", "fake:normal", strategy="enqueue")
    opened.state(0, 1, "WAITING")
    opened.says(opened.turn(0, 1), "number 1 of those that wait")
    opened.send(0, "third", "fake:normal", strategy="reject")
    opened.state(0, 2, "session_busy")
    # Stop is for the one that streams, and lets the next in.
    opened.session(0).locator(".stop").click()
    opened.state(0, 0, "cancelled")
    opened.state(0, 1, "ENDED")


def test_stop_has_a_connection_however_many_prompts_wait(opened: Opened) -> None:
    """Six and more: stops by name reach the server, and each waits its turn or is stopped."""
    opened.connect()
    opened.send(0, "first", "fake:slow")
    opened.state(0, 0, "ACTIVE")
    for number in range(1, 8):
        opened.send(0, f"prompt {number}", "fake:slow", strategy="enqueue")
    opened.state(0, 3, "WAITING")
    opened.state(0, 4, "UNSENT")
    opened.says(opened.turn(0, 4), "a browser has six connections")
    opened.send(1, "elsewhere", "fake:slow")
    opened.state(1, 0, "UNSENT")
    # By the session's own button: the next is let in, and the first that was not sent is sent.
    opened.session(0).locator(".stop").click()
    opened.says(opened.turn(0, 0), "Stopped: a client asked for it.")
    opened.state(0, 1, "ACTIVE")
    opened.state(0, 4, "WAITING")
    # By the table's.
    opened.page.locator("#streams tr", has_text="ACTIVE").locator(".stop").click()
    opened.says(opened.turn(0, 1), "Stopped: a client asked for it.")
    opened.state(0, 2, "ACTIVE")
    # What was not sent is stopped as well, and one that interrupts overtakes all that wait.
    opened.session(1).locator(".stop").click()
    opened.state(1, 0, "cancelled")
    opened.expected = "400"
    opened.send(0, "the last", "fake:normal", strategy="interrupt")
    for number in range(2, 8):
        opened.state(0, number, "superseded")
    opened.state(0, 8, "ENDED")
    opened.says(opened.turn(0, 8).locator(".answer"), "the last word1")


def test_a_reload_finds_what_it_left(opened: Opened) -> None:
    """Key, sessions, prompts, and of the answer that streamed its text and its end."""
    opened.connect()
    opened.send(0, "finish this", "fake:normal")
    opened.state(0, 0, "ENDED")
    opened.send(0, "leave this", "fake:slow")
    opened.says(opened.turn(0, 1).locator(".answer"), "leave this word1")
    opened.page.reload()
    opened.page.wait_for_selector("#link.live")
    opened.says(opened.turn(0, 0).locator(".answer"), "finish this word1")
    opened.says(opened.turn(0, 1).locator(".answer"), "leave this word1")
    opened.state(0, 1, "cancelled")
    opened.says(opened.turn(0, 1), "its client has left")
    assert opened.page.input_value("#key") == "the-key"


@_IN_LOW_WINDOW
def test_a_reload_shows_the_newest_prompt(opened: Opened) -> None:
    """The end of a list that is longer than its place."""
    opened.connect()
    for number in range(4):
        opened.send(0, f"prompt {number}", "fake:empty")
        opened.state(0, number, "ENDED")
    opened.page.reload()
    opened.page.wait_for_selector("#link.live")
    turns = opened.session(0).locator(".turns")
    assert turns.evaluate("list => list.scrollHeight > list.clientHeight")
    left = turns.evaluate("list => list.scrollHeight - list.scrollTop - list.clientHeight")
    assert left < 2


def test_an_answer_without_a_word_is_said_to_be_empty(opened: Opened) -> None:
    """Nothing is to be waited for."""
    opened.connect()
    opened.send(0, "say nothing", "fake:empty")
    opened.state(0, 0, "ENDED")
    opened.says(opened.turn(0, 0).locator(".why"), "The answer is empty.")


def test_each_model_is_offered_once(opened: Opened) -> None:
    """Troubles of the fake among its troubles, and not among Ollama's models as well."""
    opened.connect()
    options = opened.session(0).locator("select.model option")
    names = options.evaluate_all("all => all.map(each => each.value)")
    assert "fake:latest" in names
    assert len(names) == len(set(names))


def test_streams_of_others_with_the_key_are_there(opened: Opened, server: Served) -> None:
    """With their text, and they can be stopped."""
    opened.connect()
    server.prompt("by curl", "elsewhere", "fake:slow", "the-key")
    row = opened.page.locator("#streams tr", has_text="elsewhere").first
    opened.says(row, "ACTIVE")
    row.locator(".show").click()
    opened.says(opened.page.locator("#streams .shown .text"), "by curl word1")
    row.locator(".stop").click()
    opened.says(row, "cancelled")


def test_a_wrong_key_is_said_and_can_be_mended(opened: Opened) -> None:
    """In a sentence next to the key; nothing of the page works without one."""
    opened.expected = "401"
    opened.use_key("no-key")
    opened.says(opened.page.locator("#key-says"), "is not known here")
    assert opened.page.get_attribute("#key", "aria-invalid") == "true"
    opened.session(0).locator(".prompt").fill("hello")
    opened.session(0).locator(".prompt").press("Enter")
    opened.state(0, 0, "invalid_api_key")
    key_says, said = opened.page.locator("#key-says"), opened.page.locator("#said")
    sync_api.expect(key_says).to_have_text("The key in the Authorization header is not known here.")
    opened.use_key("schlüssel ✓")
    sync_api.expect(key_says).to_have_text("A key is printable ASCII without spaces.")
    sync_api.expect(said).to_have_text("A key is printable ASCII without spaces.")
    opened.connect()
    # What was said to who does not see the page is not so any more.
    sync_api.expect(said).to_have_text("Live.")
    opened.says(opened.page.locator("#key-says"), "It stays in this tab")


def test_what_a_model_says_is_text(opened: Opened) -> None:
    """Markup in a prompt, which the fake repeats, does nothing; nor does a session's name."""
    opened.connect()
    opened.send(0, "<img src=x onerror=alert(1)>")
    opened.says(opened.turn(0, 0).locator(".answer"), "<img src=x onerror=alert(1)>")
    opened.state(0, 0, "ENDED")
    assert opened.page.locator("img").count() == 0


def test_code_is_a_block_and_stays_text(opened: Opened) -> None:
    """Between fences, also one that is not closed yet; markup within it does nothing; a line that
    only begins as a fence does is text."""
    opened.connect()
    opened.send(0, "before\n```html\n<img src=x>\n  more\n```\nafter\n```py\nopen")
    asked = opened.turn(0, 0).locator(".asked")
    opened.says(asked, "before")
    assert asked.locator("pre").all_inner_texts() == ["<img src=x>\n  more", "open"]
    assert asked.locator("span").all_inner_texts() == ["before", "after"]
    opened.send(1, "```python says the model")
    opened.says(opened.turn(1, 0).locator(".asked span"), "```python says the model")
    assert opened.page.locator("img").count() == 0
    opened.state(0, 0, "ENDED")
    opened.state(1, 0, "ENDED")


def test_what_is_read_from_the_right_stands_there(opened: Opened) -> None:
    """A prompt in Arabic ends at the right edge of its column, one in English at the left."""
    opened.connect()
    for number, text in enumerate(("اكتب لي قصة", "a story")):
        opened.send(0, text)
        opened.state(0, number, "ENDED")
    gaps = [
        opened.turn(0, number)
        .locator(".asked")
        .evaluate(
            "asked => { const own = asked.getBoundingClientRect(), text ="
            " asked.querySelector('span').getBoundingClientRect();"
            " return [text.left - own.left, own.right - text.right]; }"
        )
        for number in (0, 1)
    ]
    assert gaps[0][1] < 2 < gaps[0][0]
    assert gaps[1][0] < 2 < gaps[1][1]


@pytest.mark.parametrize(
    "opened", [{"viewport": {"width": 390, "height": 844}}], indirect=True, ids=["narrow"]
)
def test_a_narrow_window_has_all_that_is_known_of_a_stream(opened: Opened) -> None:
    """Why it ended, too: within the window, and as a table to who hears it."""
    opened.connect()
    opened.send(0, "long", "fake:slow")
    opened.state(0, 0, "ACTIVE")
    opened.send(0, "again")
    opened.state(0, 0, "superseded")
    row = opened.page.get_by_role("row").filter(has_text="superseded").first
    why = row.get_by_role("cell").filter(has_text="A newer prompt of the session has stopped it.")
    box = why.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_the_keyboard_is_enough(opened: Opened) -> None:
    """From the key to a prompt, to the second session, and back, in the order of the page."""
    opened.connect()
    opened.page.locator("#key").focus()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.className") == "prompt":
            break
    opened.page.keyboard.type("typed")
    opened.page.keyboard.press("Shift+Enter")
    opened.page.keyboard.type("in two lines")
    opened.page.keyboard.press("Enter")
    opened.says(opened.turn(0, 0).locator(".asked"), "typed\nin two lines")
    opened.state(0, 0, "ENDED")
    assert opened.page.evaluate("document.activeElement.className") == "prompt"


def test_no_more_sessions_than_a_browser_has_connections_for(opened: Opened) -> None:
    """Four, and one that is closed makes room."""
    opened.connect()
    for _ in range(2):
        opened.page.click("#new-session")
    assert opened.page.locator(".session").count() == 4
    assert opened.page.is_disabled("#new-session")
    opened.session(3).locator(".close").click()
    assert opened.page.is_enabled("#new-session")


@pytest.mark.parametrize(
    "opened",
    [
        {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, **more}
        for scheme in ("light", "dark")
        for width, more in ((360, {"reduced_motion": "reduce"}), (1280, {}))
    ],
    indirect=True,
    ids=lambda value: f"{value['color_scheme']}-{value['viewport']['width']}",
)
def test_everybody_can_use_it(opened: Opened) -> None:
    """axe finds nothing serious, whatever is on the page, and it is no wider than its window."""
    _is_usable(opened)
    opened.connect()
    opened.send(0, "long", "fake:slow")
    opened.send(1, "hang", "fake:hang-midstream")
    opened.state(0, 0, "ACTIVE")
    opened.state(1, 0, "ACTIVE")
    opened.send(0, "again", "fake:normal")
    opened.state(0, 0, "superseded")
    opened.page.locator("#streams .show").first.click()
    _is_usable(opened)
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(wider) <= 0


def _is_usable(opened: Opened) -> None:
    found = axe.Axe().run(opened.page).response["violations"]
    assert [
        (each["id"], each["nodes"][0]["html"])
        for each in found
        if each["impact"] in ("serious", "critical")
    ] == []


def test_a_stream_of_a_server_that_is_gone_is_not_said_to_run(opened: Opened) -> None:
    """The table says that it is what was last heard of, and offers no Stop; once connected it does.

    The connection is lost as the server is not reached any more.
    """
    opened.connect()
    opened.send(0, "long", "fake:slow")
    opened.state(0, 0, "ACTIVE")
    streams = opened.page.locator("#streams")
    stop = streams.get_by_role("button", name="Stop").first
    sync_api.expect(stop).to_be_visible()
    opened.expected = "ERR_INTERNET_DISCONNECTED|ERR_NETWORK"
    opened.page.route("**/v1/**", lambda route: route.abort("internetdisconnected"))
    opened.page.evaluate("document.querySelector('#key-form').requestSubmit()")
    opened.says(opened.page.locator("#streams-say"), "ran when last heard of")
    sync_api.expect(stop).not_to_be_visible()
    opened.page.unroute("**/v1/**")
    opened.page.click("#link-now")
    opened.says(opened.page.locator("#streams-say"), "running")
    opened.session(0).locator("button.stop").first.click()
    opened.state(0, 0, "cancelled")


def test_a_server_that_ends_says_so_and_its_successor_is_found(browser: Any) -> None:
    """The stream and the watch say why they end; the page goes on trying, and says when."""
    context = browser.new_context()
    with served(api_keys="the-key") as running:
        opened = Opened(context, running.url)
        opened.connect()
        opened.send(0, "the last", "fake:slow")
        opened.says(opened.turn(0, 0).locator(".answer"), "word1")
        running.shuts_down()
        opened.state(0, 0, "shutting_down")
        opened.says(opened.page.locator("#link"), "Again in")
    opened.says(opened.page.locator("#link"), "The server cannot be reached")
    # Nobody has it, so it stands where it was typed.
    opened.send(1, "is anybody there?")
    opened.state(1, 0, "unreachable")
    prompt = opened.session(1).locator(".prompt")
    sync_api.expect(prompt).to_have_value("is anybody there?")
    assert opened.page.is_visible("#link-now")
    context.close()
    opened.expected = "503|ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET"
    assert opened.errors == []
