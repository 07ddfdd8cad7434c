"""The production protocol, observed: every operation is judged in the single entry point, and what
the shell does with its effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from registry.errors import IllegalOperation
from registry.invariants import SENTENCES, violated
from registry.protocol import (
    TABLE,
    Effect,
    KnownStream,
    Operation,
    Situation,
    Snapshot,
    StreamProtocol,
)
from sim.bench.harness.refinement import (
    REFINES,
    ObservedEffects,
    is_carried_out,
    keeps_what_it_knows,
    what_it_keeps,
)
from sim.kernel.world import World
from sim.schedulers.states.abstraction import leave_out

# When a stream became ACTIVE is only logged, and decides nothing.
leave_out(KnownStream, "started_at")

if TYPE_CHECKING:
    from registry import StreamRegistry
    from sim.bench.harness.log_capture import LogLine

_LEFT_OUT = frozenset(("_snapshot", "_done_with", "_applied", "_is_within"))


def label_of_row(operation: type[Operation], situation: Situation) -> str:
    """What an execution reaches when it takes this row of the table."""
    return f"row {operation.__name__.lower()}: {situation.value}"


ROWS = frozenset(label_of_row(*key) for key in TABLE)


class ObservedProtocol(StreamProtocol):
    """Checks the invariants after each operation, and reaches the label of the row it took."""

    def __init__(self, world: World, **limits: float) -> None:
        super().__init__(**limits)  # type: ignore[arg-type]
        self._world = world
        # Of the state since the last operation; it is read at every poll.
        self._snapshot: Snapshot | None = None
        # What is asked when the shell has carried out an effect, if it is watched. A function, so
        # that what it knows is not taken for what the registry keeps.
        self._done_with: Callable[[Effect | None], None] | None = None
        # The operation whose effects are not carried out yet; an action may apply another one.
        self._applied: Operation | None = None
        self._is_within = False

    def watch(self, shell: StreamRegistry, logged: Sequence[LogLine]) -> None:
        """The shell has to carry out all effects from now on, and to log into `logged`."""

        def done_with(effect: Effect | None) -> None:
            if effect is None:
                if not keeps_what_it_knows(shell, self):
                    what = f"{what_it_keeps(shell)}, and the table knows {self.snapshot().streams}"
                    self._world.fail(REFINES, f"after {self._applied} {what}")
                self._applied = None
            elif not is_carried_out(shell, effect, logged):
                self._world.fail(REFINES, f"{effect} of {self._applied} is not carried out")

        self._done_with = done_with

    def canonical_state(self) -> object:
        """Without the snapshot, which follows from the rest, and what the bench has anyway."""
        return {name: value for name, value in vars(self).items() if name not in _LEFT_OUT}

    def apply(self, operation: Operation, now: float) -> tuple[Effect, ...]:
        if self._done_with is None or self._is_within:
            return self._judged(operation, now)
        if self._applied is not None:
            self._world.fail(REFINES, f"{operation} comes before the effects of {self._applied}")
        self._is_within = True
        try:
            effects = ObservedEffects(self._judged(operation, now))
        finally:
            self._is_within = False
        self._applied = operation
        effects.done_with = self._done_with
        return effects

    def _judged(self, operation: Operation, now: float) -> tuple[Effect, ...]:
        before = self.snapshot()
        label = label_of_row(type(operation), self.situation_of(operation))
        self._snapshot = None
        try:
            effects = super().apply(operation, now)
        except Exception as exc:
            if self.snapshot() != before:
                self._world.fail("an operation that raises changes nothing", str(operation))
            if isinstance(exc, IllegalOperation):
                self._world.fail("every operation of the shell has a row in the table", str(exc))
            else:
                self._world.reached(label)
            raise
        self._world.reached(label)
        name = violated(before, operation, self.snapshot())
        if name is not None:
            self._world.fail(f"{name}: {SENTENCES[name]}", f"after {operation}")
        return effects

    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = super().snapshot()
        return self._snapshot
