"""Numbers with their nouns, as every report prints them."""

from __future__ import annotations

from sim import World, explore
from sim.counted import counted, in_words


def test_one_is_not_many() -> None:
    """The noun is in the plural where the number is not one."""
    assert [counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
    assert counted(float("inf"), "departure") == "inf departures"
    assert (in_words(1, "poll"), in_words(3, "poll")) == ("one poll", "3 polls")


def test_what_follows_stays_in_its_column() -> None:
    """A number with a width leaves as much room behind its noun for one as for many."""
    assert len(counted(1, "execution", 6)) == len(counted(12, "execution", 6))


def test_a_report_of_one_execution_says_so() -> None:
    """A first execution that violates is one execution, in each line that counts."""

    async def program(world: World) -> None:
        world.check(False, "never")

    report = explore(program, max_executions=1)
    assert "(1 execution, " in report.reason and "1 executions" not in report.text
