"""What a reader calls the actors of each level, and who they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from sim.bench.entry import Entry
from sim.bench.levels import is_of_the_bench

WHO = {
    "registry": "p1 is the first prompt that comes, p2 the second, …; each has two tasks: “p1's "
    "request” calls `register` and waits to be let in, and “p1” is the stream; outside is what the "
    "world does",
    "server": "p1, p2, … are prompts, which clients send; outside is what the world does: clients, "
    "and a fake Ollama",
    "stack": "“p1 client” sends prompt p1 over simulated sockets (network); “client 1” is the "
    "first connection to the server; stream-t1 is the server's task for p1, agent-t1 the one that "
    "asks Ollama for it, and “agent-t1's call” its connection to Ollama; outside is what the world "
    "does",
    "cluster": "v, w, … are workers; v/1 is the stream of prompt 1 in worker v, and acquire-1 the "
    "task that keeps its lease; outside is what the world does",
}

_HANDLER = re.compile(r"\b(p\d+) handler\b")
_ASKS = re.compile(r"127\.0\.0\.1:(4\d{4}) asks 127\.0\.0\.1:(8000|11434) ")
# The task of a prompt's call; connections of clients are made by the program.
_AGENT = "agent-"
_END = re.compile(r"127\.0\.0\.1:(\d+)")
# The column of one of them.
_LANE = re.compile(r"(?<!\S):(\d+)(?!\S)")
_PORTS = {"8000": "the server", "11434": "Ollama"}
_CALLERS = {"8000": "client", "11434": "call"}


def naming_of(subject: str) -> Callable[[str, str], str]:
    """Of a subject, for texts of its execution in their order, and for whose doing each is."""
    if not is_of_the_bench(subject):
        return _as_it_is
    level = Entry.parse(subject).level
    if level == "registry":
        return lambda text, whose: _HANDLER.sub(r"\1's request", text)
    return Ends() if level == "stack" else _as_it_is


def _as_it_is(text: str, whose: str) -> str:
    return text


class Ends:
    """Ends of connections by who has them, once they were asked for."""

    def __init__(self) -> None:
        self._named = dict(_PORTS)
        self._counts: Counter[str] = Counter()

    def __call__(self, text: str, whose: str) -> str:
        asks = _ASKS.match(text)
        if asks is not None and asks[1] not in self._named:
            self._named[asks[1]] = self._name_of(_CALLERS[asks[2]], whose)
        for each in (_END, _LANE):
            text = each.sub(lambda end: self._named.get(end[1], end[0]), text)
        return text

    def _name_of(self, caller: str, whose: str) -> str:
        """By who asks, where that is known; with a number where there are several."""
        name = f"{whose}'s {caller}" if whose.startswith(_AGENT) else caller
        self._counts[name] += 1
        is_one = name != caller and self._counts[name] == 1
        return name if is_one else f"{name} {self._counts[name]}"
