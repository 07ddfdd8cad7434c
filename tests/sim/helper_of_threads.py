"""What a program's threads run, in a module of its own, as users have it."""

from __future__ import annotations


class Counter:
    value = 0

    def add(self) -> None:
        seen = self.value
        self.value = seen + 1


class Twice:
    """What a thread does to it changes nothing, unless the loop has changed it before."""

    value, is_done = 1, False

    def set_again(self) -> None:
        self.value = 1
        self.is_done = False
