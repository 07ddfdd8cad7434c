"""A story of any size at server level: so many prompts, stops, leavers and hangs, at any poll."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry import StreamRegistry
from sim.asgi import Exchange
from sim.execution import Program
from sim.scenarios.server_level.story import SHORT, SILENCE, Client, ServerScenario, ServerStory
from sim.scenarios.sized import Size
from sim.server_bench import ServerBench

WINDOW_S = 0.3
"""How long after the one before an event of the same kind comes at the latest, in seconds."""

STOPPED = "a prompt was superseded"
CANCELLED = "a prompt was cancelled"
LEFT = "a client left"
HUNG = "Ollama hung, and was given up"


@dataclass(frozen=True, slots=True, order=True)
class SizedServerScenario:
    """A `Playable` of a size, with one of the two Ollama clients."""

    size: Size
    client: Client

    @property
    def name(self) -> str:
        return f"{self.size.name}.{self.client}"

    @property
    def story(self) -> str:
        return f"{self.size}, at any poll"

    @property
    def strategy(self) -> str | None:
        return None

    @classmethod
    def parse(cls, name: str) -> SizedServerScenario | None:
        """The scenario of this name; None for one that is none of ours."""
        found = re.fullmatch(r"(size-\w+)\.(async|thread)", name)
        size = Size.parse(found[1]) if found else None
        return cls(size, found[2]) if found and size else None  # type: ignore[arg-type]

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
        return tuple(label for label, count in counts.items() if count)

    def program_for(self, cls: type[Any]) -> Program:
        async def play(bench: ServerBench) -> None:
            await _Play(bench, self.size).play()

        told = ServerStory(
            self.size.name, self.story, play, (), settings=SILENCE, bench={"profile": SHORT}
        )
        return ServerScenario(told, self.client).program_for(cls)


class _Play:
    def __init__(self, bench: ServerBench, size: Size) -> None:
        self._bench = bench
        self._size = size
        self._hangs_left = size.hangs
        self._prompts: list[Exchange] = []
        self._to_come = size.registers + size.cancels + size.leaves
        self._all_came = asyncio.get_running_loop().create_future()

    async def play(self) -> None:
        self._announce("prompt", self._prompt, self._size.registers)
        self._announce("stop", self._stop, self._size.cancels)
        self._announce("leave", self._leave, self._size.leaves)
        await self._all_came
        await self._bench.over(*self._bench.server.exchanges)
        for each in self._prompts:
            self._reach(each)

    def _reach(self, prompt: Exchange) -> None:
        labels = {"superseded": STOPPED, "cancelled": CANCELLED, "upstream_silent": HUNG}
        if prompt.error_code in labels:
            self._bench.world.reached(labels[prompt.error_code])

    def _announce(
        self, kind: str, happens: Callable[[int], None], left: int, count: int = 1
    ) -> None:
        """So many events of a kind, which are alike: the first to come is the first."""
        if not left:
            return
        loop, world = asyncio.get_running_loop(), self._bench.world
        name = f"{kind} {count}"
        arrival = world.environment.announce(name, 0.0, WINDOW_S)

        def landed(_: object) -> None:
            world.record(name, actor="outside")
            loop.call_soon(self._comes, happens, count)
            self._announce(kind, happens, left - 1, count + 1)

        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)

    def _comes(self, happens: Callable[[int], None], count: int) -> None:
        happens(count)
        self._to_come -= 1
        if not self._to_come:
            self._all_came.set_result(None)

    def _prompt(self, count: int) -> None:
        choose = self._bench.world.choose
        session = choose("session", range(1, min(count, self._size.sessions) + 1))
        models = ("fake:normal", "fake:hang-midstream")
        model = choose("model", models[: 1 + bool(self._hangs_left)])
        self._hangs_left -= model != "fake:normal"
        self._prompts.append(self._bench.post_now(f"p{count}", f"s{session}", model=model))

    def _stop(self, count: int) -> None:
        if (prompt := self._anyone("stop")) is not None:
            asyncio.ensure_future(self._bench.press_stop(prompt)).set_name(f"stop {count}")

    def _leave(self, count: int) -> None:
        if (prompt := self._anyone("leave")) is not None:
            self._bench.world.reached(LEFT)
            prompt.leave()

    def _anyone(self, what: str) -> Exchange | None:
        """One whose prompt has come and who waits for more, if there is one."""
        there = {
            each.name: each
            for each in self._prompts
            if "trace_id" in each.scope["state"] and not each.is_whole and not each.has_left
        }
        return there[self._bench.world.choose(what, tuple(there))] if there else None
