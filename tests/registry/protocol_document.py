"""What registry/README.md shows of the code: both tables, a state diagram, the properties.

`python3 -m uv run python tests/registry/protocol_document.py` writes them again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from registry import lease_invariants, lease_rows
from registry.invariants import SENTENCES
from registry.protocol import TABLE, Close, Operation, Row, Situation, Who
from sim.bench.harness.row_words import words_of_row

README = Path(__file__).parents[2] / "registry" / "README.md"

STATES = (
    Situation.WAITING,
    Situation.ACTIVE,
    Situation.STOPPING,
    Situation.OVERDUE,
    Situation.DETACHED,
)
# The state of the streams that an action changes, where the situation does not say it.
BEFORE = {
    Who.NEW: Situation.UNKNOWN,
    Who.HOLDER: Situation.ACTIVE,
    Who.NEXT: Situation.WAITING,
    Who.EACH_WAITING: Situation.WAITING,
    Who.EACH_ACTIVE: Situation.ACTIVE,
}


def document(text: str) -> str:
    """The README with its generated parts as the code has them now."""
    for name, part in (
        ("table", table()),
        ("diagram", diagram()),
        ("properties", properties(SENTENCES)),
        ("leases", lease_table()),
        ("lease properties", properties(lease_invariants.SENTENCES)),
    ):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text)
    return text


def properties(sentences: Mapping[str, str]) -> str:
    lines = ["| property | what must hold |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {must} |" for name, must in sentences.items())])


def lease_table() -> str:
    lines = ["| operation | finds | then |", "|---|---|---|"]
    for (operation, situation), row in lease_rows.TABLE.items():
        then = "; ".join(action.value for action in row)
        lines.append(f"| {operation.__name__} | {situation.value} | {then} |")
    return "\n".join(lines)


def table() -> str:
    lines = ["| operation | finds | then | effects |", "|---|---|---|---|"]
    for (operation, situation), row in TABLE.items():
        cells = (operation.__name__, situation.value, words_of_row(row), _effects(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _effects(row: Row) -> str:
    effects = [effect for action in row for effect in action.value.effects]
    return ", ".join(each if isinstance(each, str) else each.__name__ for each in effects)


def diagram() -> str:
    """Each change of state, with the operations that make it."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (operation, situation), row in TABLE.items():
        for move in (move for action in row for move in action.value.moves):
            before = _node(BEFORE.get(move.who, _of_named(situation)))
            names = edges.setdefault((before, _node(move.to)), [])
            if _label(operation, move.who) not in names:
                names.append(_label(operation, move.who))
    lines = [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def _of_named(situation: Situation) -> Situation:
    return Situation.STOPPING if situation is Situation.STOPPING_AT_LIMIT else situation


def _node(situation: Situation) -> str:
    return "[*]" if situation is Situation.UNKNOWN else situation.name


def _label(operation: type[Operation], who: Who) -> str:
    if who in (Who.HOLDER, Who.NEXT, Who.EACH_WAITING) and operation is not Close:
        return f"{operation.__name__} of another"
    return operation.__name__


if __name__ == "__main__":
    README.write_text(document(README.read_text()))
