"""What a program's threads run, in a module of its own, as users have it."""

from __future__ import annotations


class Counter:
    value = 0

    def add(self) -> None:
        seen = self.value
        self.value = seen + 1
