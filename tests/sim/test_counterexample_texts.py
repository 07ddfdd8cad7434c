"""Whole counterexamples, to the letter: what a reader learns from each kind.

    python -m tests.sim.test_counterexample_texts

writes tests/sim/counterexamples.txt anew; read it as one who does not know the simulator would.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sim import explore
from sim.kernel.execution import Program
from tests.sim import small_bugs

TEXTS = Path(__file__).with_name("counterexamples.txt")
PROGRAMS: list[Program] = [
    small_bugs.deadlock,
    small_bugs.lost_update,
    small_bugs.crossing,
    small_bugs.failing_clean_up,
    small_bugs.dead_reader,
    small_bugs.failing_children,
    small_bugs.raising_callback,
    small_bugs.raising_thread,
]
HEADING = "==== {}: {}"


def text_of(program: Program) -> str:
    """Without what differs between versions of Python: lines of its library, and digests."""
    report = explore(program, max_executions=5000)
    assert report.counterexample is not None, report.text
    text = re.sub(r"(asyncio/\w+\.py):\d+", r"\1:n", report.counterexample.text)
    return re.sub(r"/[0-9a-f]{8}/", "/digest/", text)


def section_of(program: Program) -> str:
    assert program.__doc__ is not None
    return f"{HEADING.format(program.__name__, program.__doc__)}\n\n{text_of(program)}\n"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_text_of_a_counterexample(program: Program) -> None:
    """It is as written down: what failed, the departures, what became of each task, where."""
    if program is small_bugs.failing_children and sys.version_info >= (3, 14):
        pytest.skip("since 3.14 TaskGroup raises in a function of another name")
    sections = re.split(r"\n(?===== )", TEXTS.read_text("utf-8"))
    head = HEADING.format(program.__name__, "")
    (written,) = [each for each in sections if each.startswith(head)]
    assert section_of(program).rstrip("\n") == written.rstrip("\n")


if __name__ == "__main__":
    TEXTS.write_text("\n".join(map(section_of, PROGRAMS)), "utf-8")
