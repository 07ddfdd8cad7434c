"""`onestream mutants`: all are killed, and every property is the first to kill one."""

from __future__ import annotations

import json
import re

import pytest

from registry import lease_rows, lease_table
from registry.invariants import SENTENCES
from registry.protocol import PERFORM, TABLE
from sim.bench.checking.mutants import Kill, kill_all
from sim.bench.subjects.mutants import MUTANTS, Mutant, broken, mutant_named
from sim.bench.subjects.mutants.base import Undoable
from sim.cli import main
from sim.kernel.schedule import Schedule
from sim.replay import replay

pytestmark = pytest.mark.once

# The properties that no mutant of the registry level is first killed by.
OF_THE_SERVER = {
    "L2 prompt_stop": "stop_is_put_off",
    "L4 no_deadlock": "send_has_no_limit",
    "L6 silence": "silence_has_no_limit",
    "S6 isolation": "keys_share_their_sessions",
}


@pytest.fixture(scope="module")
def kills() -> list[Kill]:
    return kill_all(level="registry")


@pytest.mark.thorough
def test_all_of_the_registry_are_killed(kills: list[Kill]) -> None:
    """No mutant of the registry survives its own level."""
    assert [kill.mutant for kill in kills if not kill.is_killed] == []
    assert len(kills) >= 24


@pytest.mark.thorough
def test_every_property_is_the_first_to_kill_one(kills: list[Kill]) -> None:
    """Each of S1-S8 and L1-L6 earns its place: some mutant falls by it before all others."""
    killers = {kill.killer for kill in kills}
    for violated, name in OF_THE_SERVER.items():
        (kill,) = kill_all(name=name)
        assert kill.killer == violated
        killers.add(kill.killer)
    assert set(SENTENCES) <= killers


@pytest.mark.thorough
def test_every_counterexample_of_the_registry_replays(kills: list[Kill]) -> None:
    """The schedule that a mutant falls by leads to the same violation again, by that alone."""
    for kill in kills:
        assert Schedule.parse(kill.schedule).subject.split(":")[2] == f"mutant-{kill.mutant}"
        found = replay(kill.schedule)
        assert found is not None, kill.mutant
        assert (found.property, found.schedule) == (kill.violated, kill.schedule)
    of_production = kills[0].schedule.replace(f"mutant-{kills[0].mutant}", "production")
    assert replay(of_production) is None


@pytest.mark.thorough
def test_a_counterexample_of_the_server_replays(capsys: pytest.CaptureFixture[str]) -> None:
    """One with a departure, from the line that --verbose prints; production is whole again."""
    assert main(["mutants", "--name", "body_has_no_limit", "--verbose"]) == 0
    printed = capsys.readouterr().out
    (schedule,) = set(re.findall(r"onestream replay (\S+)", printed))
    assert not schedule.endswith("/natural")
    assert main(["replay", schedule]) == 1
    assert "L4 no_deadlock" in capsys.readouterr().out
    assert main(["replay", schedule.replace("mutant-body_has_no_limit", "production")]) == 0


def test_a_schedule_of_a_mutant_that_there_is_not_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unknown mutant is bad usage; one of other code asks for another run of the mutants."""
    head = "os2/registry:second_prompt:mutant-"
    assert main(["replay", f"{head}nobody/00000000/natural"]) == 3
    assert "mutant 'nobody' is not known" in capsys.readouterr().err
    assert main(["replay", f"{head}fencing_token_is_reused/00000000/natural"]) == 3
    assert "Run `onestream mutants` again" in capsys.readouterr().err


def test_each_has_a_name_of_its_own() -> None:
    """Names are what the command, the regressions and people know mutants by."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 30
    with pytest.raises(ValueError, match="is not known; there are second_is_let_in"):
        mutant_named("no such bug")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_a_mutant_breaks_something_and_mends_it(mutant: Mutant) -> None:
    """Within the block production is another, after it the same as before."""
    changes: list[tuple[object, str, object, object]] = []

    class Watching(Undoable):
        def setattr(self, target: object, name: str, value: object) -> None:
            before = vars(target).get(name)
            super().setattr(target, name, value)
            changes.append((target, name, before, vars(target)[name]))

    tables = (TABLE, PERFORM, lease_rows.TABLE, lease_table.PERFORM)
    before_it: list[dict[object, object]] = [dict(each.items()) for each in tables]
    patch = Watching()
    mutant.breaks(patch)
    is_broken = any(before is not now for _, _, before, now in changes)
    is_broken = is_broken or before_it != list(tables)
    patch.undo()
    assert is_broken
    assert before_it == list(tables)
    assert all(vars(target).get(name) is before for target, name, before, _ in changes)


def test_the_command_tells_who_killed_whom(capsys: pytest.CaptureFixture[str]) -> None:
    """One mutant by name, with its counterexample; as JSON; and an unknown one is bad usage."""
    assert main(["mutants", "--name", "fencing_token_is_reused"]) == 0
    printed = capsys.readouterr().out
    assert "S5 fencing in second_prompt" in printed
    assert "violated at" in printed
    assert "1 of 1 killed" in printed
    assert main(["mutants", "--name", "fencing_token_is_reused", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["survivors"] == []
    assert told["mutants"][0]["violated"].startswith("S5 fencing")
    assert told["mutants"][0]["schedule"].endswith("/natural")
    assert main(["mutants", "--name", "nobody"]) == 3


def test_a_survivor_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not killed makes the command fail, by name."""
    harmless = Mutant("registry", lambda patch: None)
    monkeypatch.setattr("sim.bench.checking.mutants.mutant_named", lambda name: harmless)
    monkeypatch.setattr("sim.bench.checking.mutants.EXECUTIONS_MAX", 3)
    assert main(["mutants", "--name", "harmless"]) == 1
    assert "SURVIVES" in capsys.readouterr().out
    with broken(harmless):
        pass
