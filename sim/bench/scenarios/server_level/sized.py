"""The parametrised scenario at server level: n prompts, stops, leavers and hangs, at any poll."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.http_bench import Client
from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import (
    SHORT,
    SILENCE,
    ServerDefinition,
    ServerScenario,
)
from sim.bench.scenarios.sized import Comings, Size, Strategies, begin
from sim.kernel.execution import Program

STOPPED = "a prompt was superseded"
CANCELLED = "a prompt was cancelled"
LEFT = "a client left"
HUNG = "Ollama hung, and was given up"


@dataclass(frozen=True, slots=True, order=True)
class SizedServerScenario:
    """A scenario of a size, with one of the two Ollama clients."""

    size: Size
    client: Client

    @property
    def name(self) -> str:
        return f"{self.size.name}.{self.client}"

    @property
    def description(self) -> str:
        return f"{self.size}, at any poll"

    @property
    def strategy(self) -> str | None:
        return None

    @property
    def reads_states(self) -> bool:
        return self.client == "async"

    @classmethod
    def parse(cls, name: str) -> SizedServerScenario | None:
        """The scenario of this name; None for another name."""
        found = re.fullmatch(r"(size-\w+)\.(async|thread)", name)
        size = Size.parse(found[1]) if found else None
        return cls(size, found[2]) if found and size else None  # type: ignore[arg-type]

    @property
    def is_possible(self) -> bool:
        """Whether all of it can happen. Ollama hangs without a stop."""
        others = self.size.enqueues + self.size.rejects
        if others and others >= self.size.registers:
            return False
        return 1 <= self.size.sessions <= self.size.registers >= self.size.hangs

    def applies_to(self, cls: type[Any]) -> bool:
        return issubclass(cls, StreamRegistry)

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        size = self.size
        counts = {
            STOPPED: size.registers - size.sessions,
            CANCELLED: size.cancels,
            LEFT: size.leaves,
            HUNG: size.hangs,
        }
        return (*(label for label, count in counts.items() if count), *size.rows)

    def program_for(self, cls: type[Any]) -> Program:
        async def play(bench: ServerBench) -> None:
            await _Play(bench, self.size).play()

        definition = ServerDefinition(
            self.size.name, self.description, play, (), settings=SILENCE, bench={"profile": SHORT}
        )
        return ServerScenario(definition, self.client).program_for(cls)


class _Play:
    def __init__(self, bench: ServerBench, size: Size) -> None:
        self._bench = bench
        self._size = size
        self._hangs_left = size.hangs
        self._strategies = Strategies(bench.world, size)
        self._prompts: list[Exchange] = []

    async def play(self) -> None:
        await Comings(self._bench.world).of(
            ("prompt", self._size.registers, self._prompt),
            ("stop", self._size.cancels, self._stop),
            ("leave", self._size.leaves, self._leave),
        )
        await self._bench.over(*self._bench.server.exchanges)
        for each in self._prompts:
            self._reach(each)

    def _reach(self, prompt: Exchange) -> None:
        labels = {"superseded": STOPPED, "cancelled": CANCELLED, "upstream_silent": HUNG}
        if prompt.error_code in labels:
            self._bench.world.reached(labels[prompt.error_code])

    def _prompt(self, count: int) -> None:
        choose = self._bench.world.choose
        session = choose("session", range(1, min(count, self._size.sessions) + 1))
        models = ("fake:normal", "fake:hang-midstream")
        model = choose("model", models[: 1 + bool(self._hangs_left)])
        self._hangs_left -= model != "fake:normal"
        chosen = self._strategies.choose()
        strategy = chosen.value if chosen is not None else None
        self._prompts.append(
            self._bench.post_now(f"p{count}", f"s{session}", model=model, strategy=strategy)
        )

    def _stop(self, count: int) -> None:
        if (prompt := self._anyone("stop")) is not None:
            begin(self._bench.world, self._bench.press_stop(prompt), f"stop {count}")

    def _leave(self, count: int) -> None:
        if (prompt := self._anyone("leave")) is not None:
            self._bench.world.reached(LEFT)
            prompt.leave()

    def _anyone(self, what: str) -> Exchange | None:
        """A client whose prompt has come and who waits for more, if there is one."""
        there = {
            each.name: each
            for each in self._prompts
            if each.given_id is not None and not each.is_whole and not each.has_left
        }
        return there[self._bench.world.choose(what, tuple(there))] if there else None
