"""What a reader calls the actors of each level, and who they are."""

from __future__ import annotations

import re
from collections.abc import Callable

from sim.bench.entry import Entry
from sim.bench.levels import is_of_the_bench

WHO = {
    "registry": "p1, p2, … are prompts, in the order in which they come, each a task that streams; "
    "“p1's request” is the task that calls `register` for p1; outside is what the world does",
    "server": "p1, p2, … are prompts, which clients send; outside is what the world does: clients, "
    "and a fake Ollama",
    "stack": "“p1 client” sends prompt p1 over simulated sockets (network); “client 1” is the "
    "first connection to the server, “call 1” the server's first one to Ollama; stream-t1 is the "
    "server's task for p1, agent-t1 that of its call; outside is what the world does",
    "cluster": "v, w, … are workers; v/1 is the stream of prompt 1 in worker v, and acquire-1 the "
    "task that keeps its lease; outside is what the world does",
}

_HANDLER = re.compile(r"\b(p\d+) handler\b")
_ASKS = re.compile(r"127\.0\.0\.1:(4\d{4}) asks 127\.0\.0\.1:(8000|11434) ")
_END = re.compile(r"127\.0\.0\.1:(\d+)")
# The column of one of them.
_LANE = re.compile(r"(?<!\S):(\d+)(?!\S)")
_PORTS = {"8000": "the server", "11434": "Ollama"}
_CALLERS = {"8000": "client", "11434": "call"}


def naming_of(subject: str) -> Callable[[str], str]:
    """Of a subject, for texts of its execution in their order."""
    if not is_of_the_bench(subject):
        return str
    level = Entry.parse(subject).level
    if level == "registry":
        return lambda text: _HANDLER.sub(r"\1's request", text)
    return Ends() if level == "stack" else str


class Ends:
    """Ends of connections by who has them, once they were asked for."""

    def __init__(self) -> None:
        self._named = dict(_PORTS)
        self._counts = dict.fromkeys(_CALLERS.values(), 0)

    def __call__(self, text: str) -> str:
        asks = _ASKS.match(text)
        if asks is not None and asks[1] not in self._named:
            caller = _CALLERS[asks[2]]
            self._counts[caller] += 1
            self._named[asks[1]] = f"{caller} {self._counts[caller]}"
        for each in (_END, _LANE):
            text = each.sub(lambda end: self._named.get(end[1], end[0]), text)
        return text
