"""Our documents name what is there, and nothing else: files, headings, commands, strategies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.cli import COMMANDS
from sim.exploration.strategies import STRATEGIES
from sim.fake_ollama.modes import MODES
from sim.fake_ollama.profiles import PROFILE_SENTENCES

ROOT = Path(__file__).parents[1]
ROOMS = ("registry", "server", "sim", "tests")
# CHANGELOG.md is left out: it tells of what there was.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    *sorted(
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.md")
        if "node_modules" not in path.parts
    ),
]
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_QUOTED = re.compile(r"`([^`\n]+)`")
# A file or folder by its name; what begins with a slash is a path of HTTP.
_PATH = re.compile(r"(?:\.\./)*[\w.*-]+(?:/[\w.*-]+)*(?:\.(?:py|md|toml|mjs|txt)|/)")
# In capitals stands what the reader has to put there.
_OF_A_ROOM = re.compile(
    r"(?<![\w./-])(?:registry|server|sim|tests)/[a-z\d_./*-]*\.(?:py|md|toml)\b"
)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def paths_missing(text: str, folder: Path) -> Iterator[str]:
    """What a text in quotes, or in a command, calls a file or folder, and that is none.

    A name counts from the folder of the document or from the root; alone it may also lie beside
    another one of its line, or deeper in the folder.
    """
    for found in _OF_A_ROOM.findall(text):
        if not any(_exists(home, found) for home in (folder, ROOT)):
            yield found
    for line in _FENCED.sub("", text).splitlines():
        beside = {folder, ROOT}
        for quoted in _QUOTED.findall(line):
            if _PATH.fullmatch(quoted) is None:
                continue
            homes = [home for home in beside if _exists(home, quoted)]
            beside |= {(home / quoted).parent for home in homes}
            is_deeper = "/" not in quoted.rstrip("/") and _is_deeper(folder, quoted)
            if not homes and not is_deeper:
                yield quoted


def links_broken(text: str, document: Path) -> Iterator[str]:
    for target, heading in _LINK.findall(_FENCED.sub("", text)):
        path = (document.parent / target).resolve() if target else document
        path = path / "README.md" if path.is_dir() and heading else path
        if not path.exists() or (heading and heading not in headings(path.read_text("utf-8"))):
            yield f"{target}#{heading}" if heading else target


def headings(text: str) -> set[str]:
    """As GitHub links to them."""
    titles = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _is_deeper(folder: Path, name: str) -> bool:
    # What is not ours lies at the root as well: environments, caches.
    folders = [ROOT / room for room in ROOMS] if folder == ROOT else [folder]
    return any(any(each.rglob(name.rstrip("/"))) for each in folders)


def _exists(home: Path, name: str) -> bool:
    if "*" in name:
        return any(home.glob(name))
    return (home / name).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_what_a_document_names_is_there(document: Path) -> None:
    """Each file or folder in quotes or in a command, and each link with its heading."""
    text = document.read_text("utf-8")
    assert list(paths_missing(text, document.parent)) == []
    assert list(links_broken(text, document)) == []


def test_a_file_that_is_gone_is_found() -> None:
    """In a sentence, in a table beside another, in a command, in a link, and as a heading."""
    text = (
        "See `sim/gone.py` and `sim/cli.py`, `gone.py`.\n\n"
        "    python tests/gone.py\n\n[here](gone.md), [there](sim/README.md#gone)\n"
    )
    missing = set(paths_missing(text, ROOT))
    assert missing == {"sim/gone.py", "gone.py", "tests/gone.py"}
    assert list(links_broken(text, ROOT / "README.md")) == ["gone.md", "sim/README.md#gone"]


@pytest.mark.parametrize(
    "room",
    [
        *("kernel", "executors", "schedulers", "counterexamples", "export", "exploration"),
        *("pages", "fake_ollama"),
    ],
)
def test_a_room_names_its_files(room: str) -> None:
    """The README of a room of the general tool, or of a room around it, names every file."""
    folder = ROOT / "sim" / room
    for path in sorted(folder.rglob("[a-z]*.py")):
        homes = (each / "README.md" for each in path.parents)
        text = next(home for home in homes if home.exists()).read_text("utf-8")
        assert re.search(rf"\b{path.stem}\b", text), f"{path.relative_to(ROOT)} is not named"


def test_the_fake_has_the_models_and_profiles_of_its_document() -> None:
    """A row for each, in order, with the sentence of the code."""
    text = (ROOT / "sim" / "fake_ollama" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", text, re.MULTILINE)
    modes = [(mode.name, mode.sentence) for mode in MODES.values()]
    assert rows == [*modes, *PROFILE_SENTENCES.items()]


def test_commands_and_strategies_have_their_rows() -> None:
    """Each command of `onestream`, and each strategy of `explore`, by its name."""
    manual = (ROOT / "sim" / "README.md").read_text("utf-8")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        assert re.search(rf"^\|.*`(onestream )?{name}[ `]", manual, re.MULTILINE), name
    table = (ROOT / "sim" / "schedulers" / "README.md").read_text("utf-8")
    for strategy in STRATEGIES:
        assert re.search(rf"^\| `\w+.*\| `{strategy}`", table, re.MULTILINE), strategy


@pytest.mark.parametrize(("name", "lines_max"), [("README.md", 180), ("ARCHITECTURE.md", 300)])
def test_a_document_for_everybody_is_short(name: str, lines_max: int) -> None:
    """Who looks in for the first time reads it to its end; the rest is in the rooms."""
    assert len((ROOT / name).read_text().splitlines()) <= lines_max
