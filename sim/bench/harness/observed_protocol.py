"""The production protocol, observed: every operation is judged in the single entry point."""

from __future__ import annotations

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
from sim.kernel.world import World
from sim.schedulers.states.abstraction import leave_out

# When a stream became ACTIVE is only logged, and decides nothing.
leave_out(KnownStream, "started_at")

ROWS = frozenset(
    f"row {operation.__name__.lower()}: {situation.value}" for operation, situation in TABLE
)


def row_of(operation: Operation, situation: Situation) -> str:
    """The label of a row of the table."""
    return f"row {type(operation).__name__.lower()}: {situation.value}"


class ObservedProtocol(StreamProtocol):
    """Checks the invariants after each operation, and reaches the label of the row it took."""

    def __init__(self, world: World, **limits: float) -> None:
        super().__init__(**limits)  # type: ignore[arg-type]
        self._world = world
        # Of the state since the last operation; it is read at every poll.
        self._snapshot: Snapshot | None = None

    def canonical_state(self) -> object:
        """Without the snapshot, which follows from the rest."""
        return {name: value for name, value in vars(self).items() if name != "_snapshot"}

    def apply(self, operation: Operation, now: float) -> tuple[Effect, ...]:
        before = self.snapshot()
        label = row_of(operation, self.situation_of(operation))
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
