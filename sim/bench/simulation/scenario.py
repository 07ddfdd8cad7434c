"""One seed as a scenario, with a name by which a schedule finds it again.

`simulate-<profile>-<client>-<seed>`, and `-keep-0.3.5` behind it where the plan is shrunk to the
actions with these numbers. At registry level there is no client: `simulate-<profile>-<seed>`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from registry import StreamRegistry
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.registry_judgements import make_bench
from sim.bench.harness.server_judgements import make_server_bench
from sim.bench.simulation.plan import Plan
from sim.bench.simulation.profiles import (
    PROFILES,
    Client,
    SimulationProfile,
    draw_plan,
    profile_named,
)
from sim.bench.simulation.registry_users import RegistryUsers
from sim.bench.simulation.server_users import SETTINGS, ServerUsers
from sim.bench.simulation.statistics import Statistics
from sim.kernel.execution import Program
from sim.kernel.world import World

PREFIX = "simulate-"
_NAME = re.compile(
    rf"{PREFIX}(?P<profile>{'|'.join(PROFILES)})(-(?P<client>async|thread))?-(?P<seed>\d+)"
    r"(-keep-(?P<keep>(\d+(\.\d+)*)?))?"
)


@dataclass(frozen=True)
class SimulatedSeed:
    """The execution of a seed, without its schedule. keep: None for the whole plan.

    client: of Ollama; at registry level there is none, and it is not used.
    """

    level: str
    profile: SimulationProfile
    client: Client
    seed: int
    keep: tuple[int, ...] | None = None

    @classmethod
    def named(cls, name: str, level: str) -> SimulatedSeed:
        """Raises ValueError for another name."""
        found = _NAME.fullmatch(name)
        if found is None or (found["client"] is None) != (level == "registry"):
            raise ValueError(
                f"{name!r} is no simulated seed at level {level}; there are "
                f"{PREFIX}PROFILE-CLIENT-SEED at server level and {PREFIX}PROFILE-SEED at registry "
                f"level, with -keep-0.3.5 behind it for a part of the plan"
            )
        keep = None
        if found["keep"] is not None:
            keep = tuple(int(number) for number in found["keep"].split(".") if number)
        client = cast(Client, found["client"] or "async")
        return cls(level, profile_named(found["profile"]), client, int(found["seed"]), keep)

    @property
    def name(self) -> str:
        client = f"-{self.client}" if self.level == "server" else ""
        kept = "" if self.keep is None else f"-keep-{'.'.join(map(str, self.keep))}"
        return f"{PREFIX}{self.profile.name}{client}-{self.seed}{kept}"

    @cached_property
    def plan(self) -> Plan:
        plan = draw_plan(self.profile, self.level, self.client, self.seed)
        return plan if self.keep is None else plan.keeping(self.keep)

    def keeping(self, numbers: Collection[int]) -> SimulatedSeed:
        return replace(self, keep=self.plan.keeping(numbers).numbers)

    def program_for(self, cls: type[Any], happened: Statistics | None = None) -> Program:
        """The program that runs the plan on a fresh registry of this class.

        happened: where to count; what an execution adds to it is complete if it came to its end.
        """
        counted = Statistics() if happened is None else happened
        play = self._play_server if self.level == "server" else self._play_registry

        async def program(world: World) -> None:
            await play(world, cls, counted)

        return program

    async def _play_server(self, world: World, cls: type[Any], happened: Statistics) -> None:
        bench = make_server_bench(
            world, cls, client=self.client, settings=SETTINGS, **self.plan.bench
        )
        users = ServerUsers(bench, self.plan, self.seed, happened)
        with log_recorded(world, bench.logged.append, users.logged):
            await bench.play(users.play)
        users.summarise()

    async def _play_registry(self, world: World, cls: type[Any], happened: Statistics) -> None:
        bench = make_bench(world, cls)
        users = RegistryUsers(bench, self.plan, happened)
        with log_recorded(world, bench.logged.append, users.logged):
            await users.play(bench)
            await bench.quiet()
        users.summarise()


def applies_to(cls: type[Any], level: str) -> bool:
    """Whether the registry can be put where this level needs one."""
    return level == "registry" or issubclass(cls, StreamRegistry) or hasattr(cls, "for_server")
