"""`GET /`: a chat for browsers of this machine, and lines for everybody else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import page
from server.app import create_app
from sim.fake_ollama.modes import MODES
from tests.server.support import error_of, run_async, settings

pytestmark = pytest.mark.once

FOLDER = Path(page.__file__).parent
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LOCAL = "http://localhost:8000"
# What shows a server that strangers reach it: by name, by a proxy, by a page of theirs.
STRANGERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("http://evil.example:8000", {}),
    ("http://192.168.0.7:8000", {}),
    (LOCAL, {"x-forwarded-for": "203.0.113.9"}),
    (LOCAL, {"origin": "https://evil.example"}),
)


def asked(*asks: tuple[str, dict[str, str]], base: str = LOCAL, **limits: Any) -> list[Any]:
    """The answers to GET of each path with these headers."""
    answers = []

    async def main() -> None:
        app = create_app(settings(**limits), signals=())
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as http,
        ):
            for path, headers in asks:
                answers.append(await http.get(path, headers=headers))

    run_async(main())
    return answers


def test_a_browser_gets_the_page_and_its_parts() -> None:
    """Without a key, each with its type and with headers that let nothing else in."""
    index, *parts = asked(("/", HTML), *((path, {}) for path in page.PATHS), api_keys="secret")
    assert index.headers["content-type"].startswith("text/html")
    assert index.headers["vary"] == "accept"
    policy = dict(
        rule.split(" ", 1) for rule in index.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        **{f"{what}-src": "'self'" for what in ("script", "style", "img", "connect")},
        **{what: "'none'" for what in ("default-src", "frame-ancestors", "base-uri")},
        "form-action": "'none'",
    }
    for answer in (index, *parts):
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.content
    types = {answer.headers["content-type"].partition(";")[0] for answer in parts}
    assert types == {"text/css", "text/javascript", "image/svg+xml"}


def test_everybody_else_gets_the_lines_of_ollama() -> None:
    """Programs look for them, and ask for anything."""
    for answer in asked(("/", {}), ("/", {"accept": "*/*"}), ("/", {"accept": "text/plain"})):
        assert answer.text.startswith("Ollama is running")
        assert answer.headers["content-type"].startswith("text/plain")


def test_the_page_can_be_switched_off() -> None:
    """Then a browser is told so, and there are no parts."""
    index, part = asked(("/", HTML), ("/page/main.js", {}), page="off")
    assert index.text.startswith("Ollama is running")
    assert "JARVIS_PAGE=off" in index.text
    assert (part.status_code, error_of(part)["code"]) == (403, "page_not_shown")


@pytest.mark.parametrize(("base", "headers"), STRANGERS)
@pytest.mark.parametrize("keys", ["", "secret"])
def test_strangers_see_it_only_where_the_setting_says_so(
    base: str, headers: dict[str, str], keys: str
) -> None:
    """Whether or not there are keys; a refusal names what shows the stranger, and the setting."""
    asks = (("/", {**HTML, **headers}), ("/page/main.js", headers))
    index, part = asked(*asks, base=base, api_keys=keys)
    assert index.text.startswith("Ollama is running")
    assert "JARVIS_PAGE=anywhere" in index.text
    assert (part.status_code, error_of(part)["code"]) == (403, "page_not_shown")
    index, part = asked(*asks, base=base, api_keys=keys, page="anywhere")
    assert index.text.startswith("<!doctype html>")
    assert part.status_code == 200


def test_below_a_mount_the_page_finds_its_parts() -> None:
    """A path without a slash at its end is led to the one with it: the parts stand below."""

    async def main() -> None:
        inner = create_app(settings(), signals=())
        async with inner.router.lifespan_context(inner):
            transport = httpx.ASGITransport(inner, root_path="/llm")
            async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as http:
                led = await http.get("/llm", headers=HTML)
                assert (led.status_code, led.headers["location"]) == (307, "./llm/")
                index = await http.get("/llm/", headers=HTML)
                assert index.text.startswith("<!doctype html>")
                assert (await http.get("/llm/page/main.js")).status_code == 200

    run_async(main())


def test_the_files_are_those_that_are_sent() -> None:
    """None is forgotten, the page asks for no other, and nothing of it is inline."""
    there = {each.name for each in FOLDER.iterdir() if each.suffix not in (".py", "")}
    assert there == set(page.MEDIA_TYPES)
    html = page.content(page.INDEX).decode()
    asked_for = set(re.findall(r'(?:href|src)="(page/[^"]+)"', html))
    for name in there - {page.INDEX}:
        imported = re.findall(r'from "\./([^"]+)"', page.content(name).decode())
        assert set(imported) <= there, name
        asked_for |= {f"page/{each}" for each in imported}
    assert asked_for == {f"page/{name}" for name in there - {page.INDEX}}
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", html)
    code = "".join(page.content(name).decode() for name in there if name.endswith(".js"))
    # Whatever a model says is text.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", code)
    assert "http://" not in html + code
    assert "https://" not in html + code


def test_a_wheel_has_the_files() -> None:
    """It takes whole packages; nothing of them is left out."""
    wheel = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "server" in wheel["targets"]["wheel"]["packages"]
    assert "exclude" not in wheel
    assert "exclude" not in wheel["targets"]["wheel"]


def test_the_troubles_of_the_fake_are_its_own() -> None:
    """By name and sentence, in its order."""
    code = page.content("words.js").decode()
    table = code.partition("TROUBLES = {")[2].partition("};")[0]
    rows = re.findall(r'^  "?([a-z-]+)"?: "(.+)",$', table, re.MULTILINE)
    assert rows == [(mode.name, mode.sentence) for mode in MODES.values()]


def test_reading_a_file_is_done_once() -> None:
    """A request waits for no disk after the first."""
    page.content.cache_clear()
    asked(("/", HTML), ("/", HTML))
    assert page.content.cache_info().misses == 1


NODE = shutil.which("node")
# Reads one watch, whose server sends a ping so often, and prints for how long it may be silent.
_READS_A_WATCH = """
globalThis.document = { addEventListener() {}, baseURI: "http://localhost/" };
globalThis.sessionStorage = { getItem: () => "key" };
globalThis.clearTimeout = () => {};
const all = [];
for (const pings of PINGS) {
  let last;
  globalThis.setTimeout = (_, ms) => { last = ms; };
  const headers = pings === null ? {} : { "x-ping-seconds": pings };
  globalThis.fetch = async () => new Response(": ping\\n\\n", { headers });
  const { Watch } = await import("./watch.js");
  await new Watch({}).read(new AbortController());
  all.push(last);
}
console.log(JSON.stringify(all));
"""


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_the_page_waits_for_as_many_pings_as_the_server_sends(tmp_path: Path) -> None:
    """Three of them, a minute at least; a browser's timer that is set too long ends at once."""
    for name in ("watch.js", "api.js"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    pings = ["15.0", "600.0", "1e+20", None, "nonsense"]
    script = _READS_A_WATCH.replace("PINGS", json.dumps(pings))
    (tmp_path / "main.js").write_text(script)
    done = subprocess.run(
        [str(NODE), "main.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [65_000, 1_800_000, 2**31 - 1, 65_000, 65_000]


# Four turns fail, and then one is sent.
_FAILS_FOUR_TIMES = """
process.on("unhandledRejection", () => {});
const { Outbox } = await import("./outbox.js");
const outbox = new Outbox();
const fails = async () => { throw new Error("no"); };
for (let i = 0; i < 4; i++) outbox.send({ run: fails }, false);
outbox.send({ run: async () => console.log("sent") }, false);
"""


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_a_turn_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    """Else the page would send nothing after four of them."""
    shutil.copy(FOLDER / "outbox.js", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.js").write_text(_FAILS_FOUR_TIMES)
    done = subprocess.run(
        [str(NODE), "main.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "sent\n", done.stderr
