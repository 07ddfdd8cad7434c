"""The shell is tied to the table: what does other than its effects, in their order, falls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from registry import StreamRegistry
from registry.protocol import Admitted, Effect, Rejected
from sim import explore
from sim.bench.harness.log_capture import silenced
from sim.bench.harness.refinement import REFINES
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.schedulers import DepartureBounded

pytestmark = pytest.mark.once

Patch = pytest.MonkeyPatch
Effects = tuple[Effect, ...]

carry_out = StreamRegistry._carry_out


def carries_out(patch: Patch, other: Callable[[StreamRegistry, Effects], None]) -> None:
    patch.setattr(StreamRegistry, "_carry_out", other)


def last_effect_first(patch: Patch) -> None:
    carries_out(patch, lambda shell, effects: carry_out(shell, effects[::-1]))


def no_effect(patch: Patch) -> None:
    carries_out(patch, lambda shell, effects: None)


def log_lines_are_swallowed(patch: Patch) -> None:
    patch.setattr("registry.stream_registry.log_line", lambda line: None)


def another_fencing_token(patch: Patch) -> None:
    def with_the_next(shell: StreamRegistry, effects: Effects) -> None:
        for effect in effects:
            carry_out(shell, (effect,))
            if isinstance(effect, Admitted):
                shell._streams[effect.trace_id].fencing_token = effect.fencing_token + 1

    carries_out(patch, with_the_next)


def answers_an_iteration_later(patch: Patch) -> None:
    def later(shell: StreamRegistry, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Admitted | Rejected):
                asyncio.get_running_loop().call_soon(carry_out, shell, (effect,))
            else:
                carry_out(shell, (effect,))

    carries_out(patch, later)


def stops_without_a_grace(patch: Patch) -> None:
    def drop_timers(shell: StreamRegistry, effects: Effects) -> None:
        for effect in effects:
            carry_out(shell, (effect,))
            for timer in shell._grace_timers.values():
                timer.cancel()

    carries_out(patch, drop_timers)


MUTANTS = (
    last_effect_first,
    no_effect,
    log_lines_are_swallowed,
    another_fencing_token,
    answers_an_iteration_later,
    stops_without_a_grace,
)


def violated_in(name: str) -> str:
    (scenario,) = [each for each in REGISTRY_SCENARIOS if each.name == name]
    with silenced():
        report = explore(scenario.program_for(StreamRegistry), strategy=DepartureBounded(0))
    return report.counterexample.property if report.counterexample else ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_shell_that_does_other_than_the_effects_falls(
    mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """In natural order, by the property that says what a shell is."""
    mutant(monkeypatch)
    assert violated_in("second_prompt") == REFINES


def test_production_carries_out_what_the_table_says() -> None:
    """In natural order; every schedule of it is what `check` goes through."""
    assert violated_in("second_prompt") == ""


def test_effects_are_carried_out_before_the_next_operation(monkeypatch: Patch) -> None:
    """Effects that nobody has taken are missed at the next operation, whatever that is."""
    carries_out(monkeypatch, lambda shell, effects: None)
    assert violated_in("explicit_cancel") == REFINES
