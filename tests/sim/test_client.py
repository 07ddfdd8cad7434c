"""The most general client of a registry: what it finds, what it proves, and how it grows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sim.bench.checking.check import check
from sim.bench.checking.deepen import deepen
from sim.bench.scenarios.client import CLIENT_SCENARIOS, ClientSize
from sim.cli import main
from sim.exploration.report import Report
from sim.exploration.verdict import Verdict
from sim.replay import replay
from tests.limits import AMPLE_S
from tests.sim.registries.correct import CORRECT
from tests.sim.registries.flawed import FLAWED

pytestmark = pytest.mark.once

SMALL, LARGER = (each.name for each in CLIENT_SCENARIOS)


def checked(cls: type[Any], scenario: str) -> Report:
    """What `onestream check --registry` says of it in this scenario."""
    registry = f"{cls.__module__}:{cls.__qualname__}"
    found = check(scenario=scenario, registry=registry, budget_s=AMPLE_S)
    return found.results[0].report


@pytest.mark.parametrize("cls", CORRECT, ids=lambda cls: cls.__name__)
def test_a_correct_registry_is_proved(cls: type[Any]) -> None:
    """Whatever its design, a registry that keeps its promises is proved for every schedule."""
    report = checked(cls, SMALL)
    assert report.verdict == Verdict.PROVED, report.text
    assert report.claim == "every schedule"


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(each, marks=[pytest.mark.thorough] if number else [])
        for number, each in enumerate(CORRECT)
    ],
    ids=lambda cls: cls.__name__,
)
def test_a_correct_registry_is_proved_in_more_operations(cls: type[Any]) -> None:
    """With three operations, in every schedule with few departures."""
    report = checked(cls, LARGER)
    assert report.verdict == Verdict.PROVED, report.text
    assert report.claim == "every schedule with up to 2 departures"


# Found late.
LONG = {
    *("AlwaysTrue", "RenewsTheGrace", "DropsTheLockInUse", "ForgetsThatItWasCalledOff"),
    "WaitsForOneWhoLeft",
}


@pytest.mark.parametrize(
    ("cls", "violated"),
    [
        pytest.param(cls, violated, marks=[pytest.mark.thorough] * (cls.__name__ in LONG))
        for cls, violated in FLAWED
    ],
    ids=[each.__name__ for each, _ in FLAWED],
)
def test_a_flawed_registry_is_refuted(cls: type[Any], violated: str) -> None:
    """Each flaw is found by the property that it violates, with a schedule that can be replayed."""
    report = checked(cls, SMALL)
    if report.verdict == Verdict.PROVED:
        report = checked(cls, LARGER)
    assert report.counterexample is not None, report.text
    assert report.counterexample.property.startswith(violated), report.text
    assert replay(report.counterexample.schedule) is not None


def test_a_size_has_a_name_and_is_found_by_it() -> None:
    """The name of a size says all of it; other names are no sizes."""
    size = ClientSize(3, 2, 1)
    assert size.name == "client-3o2s1t"
    assert ClientSize.parse(size.name) == size
    assert ClientSize.parse("size-1s1r0c0l0h") is None
    assert str(size) == ("3 operations, 2 sessions, 1 stream that may fail or ignore its cancel")


def test_the_client_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`deepen --client` goes from size to size, and states which of them it has proved."""
    monkeypatch.setattr("sim.bench.checking.deepen.LARGEST_CLIENT", ClientSize(2, 2, 0))
    registry = f"{CORRECT[0].__module__}:{CORRECT[0].__qualname__}"
    results = deepen(client=True, registry=registry, budget_s=AMPLE_S)
    proved = [each.bound.scenario.name for each in results if each.bound.departures is None]
    assert proved == ["client-2o1s0t", "client-2o2s0t"]
    assert {each.report.verdict for each in results} == {Verdict.PROVED}
    assert results[0].report.executions < results[-1].report.executions


def test_the_client_is_one_of_a_registry(capsys: pytest.CaptureFixture[str]) -> None:
    """At server level there is none, and the error says so."""
    assert main(["deepen", "--client", "--level", "server"]) == 3
    assert "the most general client is one of a registry" in capsys.readouterr().err


def test_one_size_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A size by its name, as the command line takes it."""
    arguments = ["deepen", "--size", "client-1o1s1t", "--json", "--budget", str(AMPLE_S)]
    assert main(arguments) == 0
    (result, *_) = json.loads(capsys.readouterr().out)["results"]
    assert (result["size"], result["verdict"]) == ("client-1o1s1t", "proved")
