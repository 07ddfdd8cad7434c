"""A verdict with its reason, or an error: its first line says what it is."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

WIDTH_MAX = 100
_WIDTH_MIN = 40


def columns() -> int:
    """Of the terminal, if standard output is one: what is longer it would break anywhere."""
    if not sys.stdout.isatty():
        return WIDTH_MAX
    return max(min(shutil.get_terminal_size().columns, WIDTH_MAX), _WIDTH_MIN)


def fitted(text: str, indent: str = "") -> str:
    """A paragraph in lines that fit; indent: of all but the first."""
    lines = textwrap.wrap(
        " ".join(text.split()),
        columns(),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Where it is longer than a line, its second sentence begins in a line of its own."""
    if "\n" in text:
        return [line for each in text.split("\n") for line in _in_lines(each)]
    if len(text) <= WIDTH_MAX:
        return [text]
    # What is in brackets belongs to the sentence before.
    at = next(
        (
            found.end()
            for found in re.finditer(r"; |\. (?=[A-Z])", text)
            if text.count("(", 0, found.start()) == text.count(")", 0, found.start())
        ),
        len(text),
    )
    parts = [("", text[:at]), ("  ", text[at:])]
    counts = text.rfind(" (", 0, at)
    if at > WIDTH_MAX and counts >= 0:
        parts[:1] = [("", text[:counts]), ("  ", text[counts + 1 : at])]
    return [line for indent, part in parts if part for line in _in_lines(indent + part)]


def _in_lines(text: str) -> list[str]:
    indent = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        text,
        WIDTH_MAX,
        subsequent_indent=indent or "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]
