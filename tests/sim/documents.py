"""The parts of our documents that a test can run: Python programs, and counterexamples."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITH_PROGRAMS = (
    "README.md",
    "sim/README.md",
    "sim/kernel/network/README.md",
    "registry/README.md",
)
"""Documents whose Python blocks are programs; those of a document share their names, in order."""
WITH_COUNTEREXAMPLES = ("README.md", "sim/bench/README.md", "sim/counterexamples/README.md")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"`(onestream (?:check|simulate) [^`]*)`[^`]*\Z")


def read(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def programs(document: str) -> list[str]:
    """The Python blocks, without test files."""
    return [block for block in _python(document) if not _is_test_file(block)]


def pytest_modules(document: str) -> list[str]:
    return [block for block in _python(document) if _is_test_file(block)]


def counterexamples(document: str) -> list[tuple[str | None, str]]:
    """Each with the command before it that prints it; None where a program of the document does."""
    text = read(document)
    found = []
    for block in _BLOCK.finditer(text):
        if block[2].startswith("violated at "):
            command = _COMMAND.search(text[: block.start()])
            found.append((command and command[1], block[2]))
    return found


def lasting(counterexample: str) -> str:
    """Without what changes with any code: places in the source, numbers of steps, schedules."""
    text = re.sub(r"\(\S+\.(py|md):\d+.*\)$", "(a place)", counterexample, flags=re.MULTILINE)
    text = re.sub(r"\.py:\d+", ".py:n", text)
    text = re.sub(r"at callback \d+", "at a callback", text)
    text = re.sub(r"\d+ steps? of tasks", "n steps of tasks", text)
    # How long a row is, and so where the next bar stands, depends on these numbers.
    text = re.sub(r"[ │]+", " ", text)
    return re.sub(r"^replay: .*$", "replay: …", text, flags=re.MULTILINE)


def _python(document: str) -> list[str]:
    return [body for language, body in _BLOCK.findall(read(document)) if language == "python"]


def _is_test_file(block: str) -> bool:
    return block.startswith("# test_")
