"""The mutants of production and Hypothesis at its default of 100 examples: which are killed.

    python tests/benchmarks/hypothesis_mutants.py [--seeds N] [--level LEVEL]
                                                   [--only PART_OF_A_NAME] [--jobs N]

Three ways to use Hypothesis, with the judgements of the bench in each, and in virtual time:

actions            Hypothesis draws what users (and Ollama) do, and everything happens in natural
                   order. Registry: the state machine of tests/registry/state_machine.py; after
                   each command the loop runs until it is idle, and it is never late. Server: a plan
                   of up to 12 actions, played and judged as by `onestream simulate`.
actions, schedule  The same actions, and Hypothesis draws the schedule, too. Registry: the state
                   machine as it is, which says how many iterations the loop runs, and how late it
                   is. Server: the plan, and each choice of the simulator.
scenarios          The actions are those of the bench's scenarios, one test for each, and Hypothesis
                   draws each choice of the simulator. As in `onestream mutants`, the scenario of
                   which the mutant's author thought is the first to be played.

A cell is the example that fails first, the median over the seeds; `>100` if none does, and
`(failed/seeds)` after it where only some seeds' did. Of the scenarios it is the examples of the
one that fails. Figures are examples, so they are the same on every machine, except for a mutant
that never returns to its loop, which counts as a failure after some seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from registry import StreamRegistry
from sim.bench.checking.mutants import Kill, kill_all
from sim.bench.harness.log_capture import log_captured, silenced
from sim.bench.harness.server_judgements import make_server_bench
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.simulation.plan import Action, Plan
from sim.bench.simulation.profiles import _OLLAMA, Client
from sim.bench.simulation.server_users import SETTINGS, ServerUsers
from sim.bench.simulation.statistics import Statistics
from sim.bench.subjects.mutants import MUTANTS, Mutant, broken, mutant_named
from sim.kernel.execution import Program
from sim.kernel.guards import guarded
from sim.kernel.world import World
from sim.schedulers import NaturalOrder
from tests.benchmarks.hypothesis_scheduler import (
    EXAMPLES_MAX,
    examples_to_failure,
    usual_settings,
)
from tests.benchmarks.schedulers import cell, fails, fails_as_drawn
from tests.registry.state_machine import SPIN_MAX, Machine

PRODUCTION = "production"

# ---- registry level: the state machine -------------------------------------------------------


class InNaturalOrder(Machine):
    """As one would write it without a schedule in mind: each command is followed to its end."""

    loop_is_late = None

    @rule(deadlines=st.integers(1, 3))
    def deadlines_pass(self, deadlines: int) -> None:
        for _ in range(deadlines):
            self.loop.environment.advance(min(self.loop._next_deadline(), 1e6))
            self.iterate()

    def iterate(self, times: int = 1) -> None:
        """Until the loop is idle, however many iterations were asked for."""
        for _ in range(SPIN_MAX):
            super().iterate()
            if not self.loop._ready:
                return
        raise AssertionError("L4 no_deadlock: the loop spins while time stands still")


def machine_to_failure(machine: type[Machine], seed: int) -> float:
    """Which example of the machine is the first to fail, infinite if none is."""
    examples, failed_at = 0, math.inf

    class Counted(machine):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            nonlocal examples
            examples += 1
            super().__init__()

        def teardown(self) -> None:
            nonlocal failed_at
            try:
                super().teardown()
            finally:
                # Its own, or the one on whose way out it is called.
                if isinstance(sys.exc_info()[1], Exception):
                    failed_at = min(failed_at, examples)

    try:
        run_state_machine_as_test(
            hypothesis.seed(seed)(Counted), settings=usual_settings(EXAMPLES_MAX)
        )
    except Exception:
        if math.isinf(failed_at):
            raise
    return failed_at


# ---- server level: plans ---------------------------------------------------------------------

USERS = st.sampled_from([("s", "alice"), ("s", "alice"), ("t", "alice"), ("s", "bob")])
GAPS_S = st.sampled_from([0.3, 0.0, 0.02, 0.15, 1.0, 2.5])
WINDOWS_S = st.sampled_from([0.0, 0.02, 0.3])
MODES = st.sampled_from(
    [
        *("normal", "normal", "normal", "slow", "unicode", "one-segment", "slow-load"),
        *("error", "error-midstream", "cut", "crash", "missing", "busy", "pause"),
        *("hang-before-headers", "hang-midstream", "ignores-disconnect", "late-notice"),
    ]
)
KINDS = st.sampled_from(
    [
        *("prompt", "prompt", "prompt", "half a prompt", "leave", "leave", "stop"),
        *("stranger's stop", "stop reading", "read on", "rest", "unreachable", "reachable"),
        *("stuck lookup", "SIGTERM"),
    ]
)
OF_OLLAMA = ("unreachable", "reachable", "stuck lookup", "SIGTERM")


@st.composite
def plans(draw: st.DrawFn, client: Client) -> Plan:
    """What users and Ollama do, each action some time after the last."""
    actions: list[Action] = []
    prompts: list[int] = []
    at = 0.0
    for number in range(draw(st.integers(1, 12))):
        at += draw(GAPS_S)
        kind = draw(KINDS) if prompts else "prompt"
        action = Action(number, at, kind, window_s=draw(WINDOWS_S))
        if kind in ("prompt", "half a prompt"):
            prompts.append(number)
            session, key = draw(USERS)
            mode, stream = draw(MODES), draw(st.booleans())
            action = replace(action, session=session, key=key, how=mode, stream=stream)
        elif kind not in OF_OLLAMA:
            action = replace(action, of=prompts[-1 - draw(st.integers(0, 3)) % len(prompts)])
        # A lookup in a thread is one of the blocking client.
        is_possible = kind != "stuck lookup" or client == "thread"
        if is_possible:
            seconds = draw(st.sampled_from([1.0, 4.0])) if kind == "stuck lookup" else 0.0
            actions.append(replace(action, seconds=seconds))
        if kind == "SIGTERM":
            break
    bench = {
        "profile": replace(_OLLAMA, chunks=3, num_parallel=draw(st.sampled_from([1, 2, 4]))),
        "buffer_bytes": draw(st.sampled_from([0, 2000])),
        "lines": draw(st.booleans()),
    }
    return Plan(tuple(actions), at, len(actions), bench)


def program_of(plan: Plan, client: Client) -> Program:
    async def program(world: World) -> None:
        bench = make_server_bench(
            world, StreamRegistry, client=client, settings=SETTINGS, **plan.bench
        )
        users = ServerUsers(bench, plan, 0, Statistics())
        with log_captured(bench.logged.append, users.logged):
            await bench.play(users.play)

    return program


def drawn_program(data: st.DataObject) -> Program:
    client: Client = data.draw(st.sampled_from(["async", "thread"]))
    return program_of(data.draw(plans(client)), client)


def plan_fails(data: st.DataObject) -> bool:
    program, natural = drawn_program(data), NaturalOrder()
    natural.next_execution()
    return fails(program, natural)


def plan_fails_as_drawn(data: st.DataObject) -> bool:
    return fails_as_drawn(drawn_program(data), data)


# ---- the ways, and their results -------------------------------------------------------------


@dataclass(frozen=True)
class Under:
    """What is under test: a mutant, or production, which nothing is to fail on."""

    name: str
    level: str
    likely: tuple[str, ...] = ()


def of_actions(under: Under, seed: int) -> float:
    if under.level == "registry":
        return machine_to_failure(InNaturalOrder, seed)
    with guarded():
        return examples_to_failure(plan_fails, seed=seed)


def of_actions_and_schedule(under: Under, seed: int) -> float:
    if under.level == "registry":
        return machine_to_failure(Machine, seed)
    with guarded():
        return examples_to_failure(plan_fails_as_drawn, seed=seed)


def of_scenarios(under: Under, seed: int) -> float:
    scenarios = [each for each in SCENARIOS_BY_LEVEL[under.level] if each.strategy is None]
    for scenario in sorted(scenarios, key=lambda each: each.name not in under.likely):
        drawn = partial(fails_as_drawn, scenario.program_for(StreamRegistry))
        with guarded():
            failed_at = examples_to_failure(drawn, seed=seed)
        if failed_at <= EXAMPLES_MAX:
            return failed_at
    return math.inf


WAYS: dict[str, Callable[[Under, int], float]] = {
    "actions": of_actions,
    "actions, schedule": of_actions_and_schedule,
    "scenarios": of_scenarios,
}


@dataclass(frozen=True)
class Row:
    """Of one mutant: how `onestream mutants` kills it, and by way the examples of each seed."""

    mutant: str
    kill: Kill | None
    examples: dict[str, list[float]]

    @property
    def cells(self) -> list[str]:
        ours = "–"
        if self.kill is not None:
            ours = f"{self.kill.executions}, {self.kill.killer}" if self.kill.is_killed else "–"
        return [self.mutant, ours, *(cell(each, EXAMPLES_MAX) for each in self.examples.values())]


def row_of(name: str, level: str, seeds: int) -> Row:
    """name: of a mutant, or PRODUCTION, judged as one of this level."""
    mutant: Mutant | None = None if name == PRODUCTION else mutant_named(name)
    under = Under(name, level, mutant.likely if mutant else ())
    breaks = nullcontext() if mutant is None else broken(mutant)
    # What an execution leaves behind logs while it is drained.
    with breaks, silenced():
        examples = {
            way: [to_failure(under, seed) for seed in range(seeds)]
            for way, to_failure in WAYS.items()
        }
    kill = kill_all(name=name)[0] if mutant else None
    return Row(name if mutant else f"{name}, {level} level", kill, examples)


def summary(rows: list[Row], seeds: int) -> str:
    """How many of the mutants each way kills, and who survives under every seed."""
    mutants = [row for row in rows if row.kill is not None]
    killed = sum(row.kill is not None and row.kill.is_killed for row in mutants)
    lines = [
        "| | killed, every seed | some seeds | none | survivors |",
        "|---|---|---|---|---|",
        f"| `onestream mutants` | {killed} | – | {len(mutants) - killed} | – |",
    ]
    for way in WAYS:
        failed = {
            row.mutant: sum(number <= EXAMPLES_MAX for number in row.examples[way])
            for row in mutants
        }
        counts = list(failed.values())
        always, never = counts.count(seeds), counts.count(0)
        survivors = ", ".join(f"`{name}`" for name, count in failed.items() if not count)
        some = len(counts) - always - never
        lines.append(f"| {way} | {always} | {some} | {never} | {survivors or '–'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--level", choices=tuple(SCENARIOS_BY_LEVEL), help="default: both")
    parser.add_argument("--only", default="", help="part of the name")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    todo = [(PRODUCTION, level) for level in SCENARIOS_BY_LEVEL]
    todo += [(each.name, each.level) for each in MUTANTS]
    todo = [
        (name, level)
        for name, level in todo
        if arguments.only in name and arguments.level in (None, level)
    ]
    print("| mutant | `onestream mutants` | " + " | ".join(WAYS) + " |")
    print("|---" * (2 + len(WAYS)) + "|", flush=True)
    rows = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        names, levels = [name for name, _ in todo], [level for _, level in todo]
        for row in pool.map(row_of, names, levels, [arguments.seeds] * len(todo)):
            rows.append(row)
            print("| " + " | ".join(row.cells) + " |", flush=True)
    print(f"\n{summary(rows, arguments.seeds)}")


if __name__ == "__main__":
    main()
