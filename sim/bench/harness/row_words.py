"""The rows of the protocol's table in words, by the labels that an execution reaches with them."""

from __future__ import annotations

from registry.protocol import TABLE, Action, Row, Situation
from sim.bench.harness.observed_protocol import label_of_row


def words_of_rows() -> dict[str, str]:
    """For each label what its row does, in the order of the table."""
    return {label_of_row(*key): words_of_row(row) for key, row in TABLE.items()}


def words_of_row(row: Row) -> str:
    return "; ".join(_moves(action) for action in row) or "nothing"


def _moves(action: Action) -> str:
    does = action.value
    error = f" ({does.error.__name__})" if does.error is not None else ""
    if does.refuses is not None:
        return f"refused{error}: {does.refuses}"
    return ", ".join(f"{move.who.value} → {_state(move.to)}" for move in does.moves) + error


def _state(situation: Situation) -> str:
    return "gone" if situation is Situation.UNKNOWN else situation.name
