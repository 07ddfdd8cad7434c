"""A plan: what users, Ollama and the system do in one execution, drawn before it begins.

It is plain data, so that a shrunk one can be named: by the numbers of the actions that it keeps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from registry import Strategy

Kind = Literal[
    "prompt",
    "half a prompt",  # the first half of its body
    "rest",  # the second half
    "leave",
    "stop",
    "stranger's stop",  # with another key
    "stop reading",
    "read on",
    "unreachable",  # Ollama refuses connections
    "reachable",
    "stuck lookup",  # of the next call that looks up Ollama's name in a thread
    "SIGTERM",
]


@dataclass(frozen=True, slots=True)
class Action:
    """What happens at a virtual time, in seconds; it lands within `window_s` from then.

    number: its place in the plan as drawn. of: the number of the prompt that it is about, for
    what a user does to one. session, key, stream, strategy: of a prompt. how: a prompt's mode of
    the fake, or at registry level what its stream does when it is stopped. seconds: how long that,
    or a lookup, takes.
    """

    number: int
    at: float
    kind: Kind
    of: int | None = None
    session: str = "s"
    key: str = "alice"
    how: str = "normal"
    stream: bool = True
    strategy: Strategy = Strategy.INTERRUPT
    seconds: float = 0.0
    window_s: float = 0.0

    @property
    def name(self) -> str:
        """Of the prompt that it sends or is about."""
        return f"p{self.number if self.of is None else self.of}"

    @property
    def words(self) -> str:
        match self.kind:
            case "prompt":
                what = [f"{self.key}/{self.session}", self.how]
                if self.strategy is not Strategy.INTERRUPT:
                    what.append(self.strategy.value)
                return f"{self.name} arrives ({', '.join(what)})"
            case "half a prompt":
                return f"half of {self.name} arrives"
            case "rest":
                return f"the rest of {self.name} arrives"
            case "unreachable" | "reachable":
                return f"Ollama is {self.kind}"
            case "stuck lookup":
                return f"a lookup will take {self.seconds:.1f} s"
            case "SIGTERM":
                return "SIGTERM"
            case _:
                return f"{self.name}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions of an execution in the order of their times, and what was drawn besides.

    bench: parameters of the ServerBench. spread: the sigma of the log-normal factor on each of
    Ollama's latencies. drawn: how many actions it had before any was left out.
    """

    actions: tuple[Action, ...]
    drawn: int
    bench: dict[str, Any] = field(default_factory=dict)
    spread: float = 0.0

    def keeping(self, numbers: Collection[int]) -> Plan:
        """With these actions alone, and without those about a prompt that is left out."""
        kept = set(numbers)
        actions = tuple(
            action
            for action in self.actions
            if action.number in kept and (action.of is None or action.of in kept)
        )
        return replace(self, actions=actions)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(action.number for action in self.actions)

    @property
    def is_whole(self) -> bool:
        return len(self.actions) == self.drawn

    @property
    def users(self) -> tuple[tuple[str, str], ...]:
        """Key and session of each user who prompts, in the order of their first prompts."""
        return tuple(
            dict.fromkeys(
                (action.key, action.session)
                for action in self.actions
                if action.kind in ("prompt", "half a prompt")
            )
        )
