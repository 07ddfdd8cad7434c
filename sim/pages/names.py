"""What a reader calls the actors: a task that has no name of its own by what it runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Naming = Callable[[str, str], str]
"""Of a text, and of whose doing it is, where that is known."""


def as_it_is(text: str, whose: str = "") -> str:
    return text


# What asyncio calls a task that nobody named.
_UNNAMED = re.compile(r"\bTask-\d+\b")


@dataclass(frozen=True, slots=True)
class Made:
    """A task: its name, the function that it runs, and where it was made, `FILE:LINE`."""

    name: str
    runs: str
    where: str


class Names:
    def __init__(self, made: Sequence[Made], naming: Naming = as_it_is) -> None:
        """naming: of names that the program gave."""
        self._naming = naming
        unnamed = [each for each in made if _UNNAMED.fullmatch(each.name)]
        counts = Counter(each.runs for each in unnamed)
        numbers: Counter[str] = Counter()
        self._shown: dict[str, str] = {}
        self.made_at: dict[str, str] = {}
        for each in unnamed:
            numbers[each.runs] += 1
            number = f" {numbers[each.runs]}" if counts[each.runs] > 1 else ""
            self._shown[each.name] = f"{each.runs}{number}"
            self.made_at[self._shown[each.name]] = each.where

    def in_text(self, text: str, whose: str = "") -> str:
        """whose: the actor whose doing it is, if that is known, and has a name."""
        found = _UNNAMED.sub(lambda match: self._shown.get(match[0], match[0]), text)
        return self._naming(found, "" if _UNNAMED.search(whose) else whose)
