"""`onestream check` and `onestream replay` at registry level: verdicts, exit codes, mutants."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import pytest

from sim.bench.checking import check as check_module
from sim.bench.checking.check import check
from sim.bench.checking.jobs import DEPARTURES, Job
from sim.bench.harness.observed_protocol import ROWS
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.scenarios.strategies import STRATEGY_SCENARIOS
from sim.bench.subjects import registry_class
from sim.bench.subjects.mutants.registry import KILLED
from sim.cli import main
from sim.executors.processes import processes
from sim.kernel.schedule import Schedule
from tests.limits import AMPLE_S

OWN = "tests.sim.own_registries"
SCENARIOS = {scenario.name: scenario for scenario in SCENARIOS_BY_LEVEL["registry"]}
# Most of the executions of all: they are proved whenever CI runs a check.
LARGEST = ("client-2o1s1t", "client-3o2s1t", "racing_registers")
OTHERS = [name for name in SCENARIOS if name not in LARGEST]
Result = dict[str, Any]


def run(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it printed; a check has an ample budget if none."""
    if arguments[0] == "check" and "--budget" not in arguments:
        arguments = (*arguments, "--budget", str(AMPLE_S))
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(arguments)
    return code, printed.getvalue()


@pytest.fixture
def without_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_the_largest(monkeypatch)


def leave_out_the_largest(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(SCENARIOS_BY_LEVEL, "registry", tuple(SCENARIOS[name] for name in OTHERS))


@pytest.fixture(scope="module")
def whole() -> tuple[int, Result]:
    """`onestream check` at registry level, once."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_the_largest(patch)
        code, printed = run("check", "--level", "registry", "--json")
    return code, json.loads(printed)


def results_of(found: Result, registry: str) -> dict[str, Result]:
    return {each["scenario"]: each for each in found["results"] if each["registry"] == registry}


# ---- the whole check -------------------------------------------------------------------------


def test_production_is_proved_in_every_scenario(whole: tuple[int, Result]) -> None:
    """Production is proved, with nothing left out, and the exit code says so."""
    code, found = whole
    assert code == 0
    assert found["verdict"] == "proved"
    results = results_of(found, "production")
    assert set(results) == set(OTHERS)
    assert {each["verdict"] for each in results.values()} == {"proved"}
    # It is searched by its cancels, which are a part of all schedules.
    not_whole = {name for name, each in results.items() if each["complete"] != 1.0}
    assert not_whole == {"cancel_in_the_queue"}
    assert {each["level"] for each in results.values()} == {"registry"}
    assert all(each["executions"] > 1 for each in results.values())


def test_every_row_of_the_table_is_taken(whole: tuple[int, Result]) -> None:
    """No row of the protocol's table is missing from what production did."""
    assert whole[1]["rows_missing"] == []


@pytest.mark.parametrize("scenario", OTHERS)
def test_every_label_of_a_scenario_is_reached(scenario: str, whole: tuple[int, Result]) -> None:
    """Each scenario has labels, and production reaches them all."""
    demanded = SCENARIOS[scenario].labels_for(registry_class("production"))
    assert demanded
    assert set(demanded) <= set(results_of(whole[1], "production")[scenario]["labels"])


@pytest.mark.parametrize(
    ("registry", "scenario", "violated"),
    [
        ("original", "second_prompt", "S1 one_active"),
        ("original", "racing_registers", "S1 one_active"),
        ("quick_fix", "racing_registers", "S1 one_active"),
        ("quick_fix", "swallowed_cancel", "L1 admission"),
    ],
)
def test_the_published_registries_are_refuted(registry: str, scenario: str, violated: str) -> None:
    """The published registries are refuted by the property that they are known to break."""
    code, printed = run("check", "--registry", registry, "--scenario", scenario, "--json")
    (result,) = json.loads(printed)["results"]
    assert (code, result["verdict"]) == (1, "refuted")
    assert result["counterexample"]["property"].startswith(violated)


def test_what_a_registry_lacks_is_not_applicable(whole: tuple[int, Result]) -> None:
    """Scenarios that need more than the note's methods are not played on registries without."""
    for registry in ("original", "quick_fix"):
        not_applicable = {
            each["scenario"] for each in whole[1]["not_applicable"] if each["registry"] == registry
        }
        assert not_applicable == {
            "known_trace_id",
            "close_while_streaming",
            "emits_after_stop",
            "emits_after_its_end",
            "goes_on_after_pop",
            *(each.name for each in STRATEGY_SCENARIOS),
        }
        assert not_applicable.isdisjoint(results_of(whole[1], registry))


def test_every_counterexample_replays(whole: tuple[int, Result]) -> None:
    """Each schedule that check gives leads `replay` to the same text, and to exit code 1."""
    found = [each["counterexample"] for each in whole[1]["results"] if each["counterexample"]]
    assert len(found) > 5
    for counterexample in found:
        code, printed = run("replay", counterexample["schedule"])
        assert code == 1
        assert printed.strip() == counterexample["text"].strip()


def test_json_has_the_promised_fields(whole: tuple[int, Result]) -> None:
    """Every result has the fields that programs read."""
    fields = {"registry", "scenario", "level", "verdict", "executions", "seconds", "complete"}
    for result in whole[1]["results"]:
        assert fields | {"counterexample"} <= set(result)
        if result["counterexample"] is not None:
            assert set(result["counterexample"]) == {"property", "schedule", "text"}


# ---- exit codes ------------------------------------------------------------------------------


def test_what_a_budget_was_too_short_for_is_told_with_what_to_do() -> None:
    """On a slow or busy machine most of the table may say no more than that it was spent."""
    scenario = ("--registry", "production", "--scenario", "second_prompt")
    code, printed = run("check", *scenario, "--budget", "1e-9")
    assert code == 2
    assert "next: 1 of them spent the budget; raise it (--budget SECONDS)" in printed
    code, printed = run("check", *scenario, "--departures", "0")
    assert (code, "next:" in printed) == (0, False)


def test_a_refuted_registry_exits_with_1() -> None:
    """The exit code is that of the registry under check; the text has its counterexample."""
    code, printed = run("check", "--registry", "original", "--scenario", "racing_registers")
    assert code == 1
    assert "violated at 0.000 s: S1 one_active" in printed
    assert "onestream replay os2/registry:racing_registers:original/" in printed


def test_a_proved_registry_exits_with_0_and_prints_its_bounds() -> None:
    """The text of a proof names its bounds, the interpreter and the code."""
    code, printed = run("check", "--registry", "production", "--scenario", "known_trace_id")
    assert code == 0
    assert "proved" in printed
    assert "lateness_s=0.01, passes_max=4, spin_max=200, horizon_s=600" in printed
    assert "CPython" in printed


def test_published_registries_do_not_decide_the_exit_code() -> None:
    """Without --registry the verdict is production's, whatever comes of the others."""
    code, printed = run("check", "--scenario", "second_prompt", "--json")
    assert code == 0
    assert {each["verdict"] for each in results_of(json.loads(printed), "original").values()} == {
        "refuted"
    }


def test_a_budget_that_does_not_suffice_exits_with_2() -> None:
    """A search that its budget ends is inconclusive."""
    code, printed = run(
        "check", "--scenario", "second_prompt", "--registry", "production", "--budget", "1e-9"
    )
    assert code == 2
    assert "inconclusive" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--scenario", "no_such_scenario"),
        ("check", "--registry", "no_such_registry"),
        ("check", "--registry", "no.such.module:Class"),
        ("check", "--registry", f"{OWN}:NoSuchClass"),
        ("check", "--registry", f"{OWN}:LacksPop"),
        ("check", "--registry", "original", "--scenario", "close_while_streaming"),
        ("replay", "no schedule"),
        ("replay", "os2/registry:no_such_scenario:original/00000000/natural"),
        ("replay", "os2/registry:second_prompt:original/00000000/natural"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_bad_usage_exits_with_3(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be checked or replayed is an error, told in one line on stderr."""
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("onestream: ")
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-command",),
        ("check", "--level", "no-such-level"),
        ("check", "--budget", "0"),
        ("check", "--jobs", "0"),
        ("check", "--no-such-option"),
        ("replay",),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_what_the_parser_refuses_exits_with_3(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse's own exit code would be 2, which means inconclusive here."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 3
    assert "usage: onestream" in capsys.readouterr().err


def test_a_changed_digest_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule of other code is not replayed: exit code 3, and what to do instead."""
    _, printed = run("check", "--registry", "original", "--scenario", "second_prompt", "--json")
    (result,) = json.loads(printed)["results"]
    schedule = Schedule.parse(result["counterexample"]["schedule"])
    other = replace(schedule, digest="00000000" if schedule.digest != "00000000" else "11111111")
    assert main(["replay", str(other)]) == 3
    error = capsys.readouterr().err
    assert schedule.digest in error
    assert "Run `onestream check` again" in error


def test_a_replay_without_violation_exits_with_0() -> None:
    """The natural schedule of a registry that holds shows no violation."""
    _, printed = run("check", "--registry", "production", "--scenario", "known_trace_id", "--json")
    (result,) = json.loads(printed)["results"]
    schedule = f"os2/registry:known_trace_id:production/{result['digest']}/natural"
    assert run("replay", schedule) == (
        0,
        "no violation: under this schedule every property holds\n",
    )


def test_a_schedule_with_choices_that_there_are_not_is_refused() -> None:
    """A schedule with the right digest and a choice too many exits with 3."""
    _, printed = run("check", "--registry", "original", "--scenario", "second_prompt", "--json")
    (result,) = json.loads(printed)["results"]
    schedule = Schedule.parse(result["counterexample"]["schedule"])
    assert main(["replay", str(replace(schedule, departures=((9999, 1),)))]) == 3


# ---- what makes a verdict --------------------------------------------------------------------


def test_a_scenario_with_a_label_out_of_reach_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A label that no execution reaches keeps a scenario from being proved."""
    scenario = SCENARIOS["known_trace_id"]
    wanting = replace(scenario, labels=(*scenario.labels, "out of reach"))
    monkeypatch.setitem(SCENARIOS_BY_LEVEL, "registry", (wanting,))
    verdict = check(
        level="registry", scenario=wanting.name, registry="production", budget_s=AMPLE_S
    )
    assert verdict.verdict == "inconclusive"
    assert "out of reach" in verdict.results[0].report.reason


def test_rows_that_are_not_taken_are_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scenarios proved, but rows of the table not taken: inconclusive, and they are named."""
    monkeypatch.setitem(SCENARIOS_BY_LEVEL, "registry", (SCENARIOS["known_trace_id"],))
    verdict = check(level="registry", registry="production", budget_s=AMPLE_S)
    assert {result.report.verdict for result in verdict.results} == {"proved"}
    assert verdict.verdict == "inconclusive"
    assert "row register: holder overdue" in verdict.rows_missing
    assert set(verdict.rows_missing) < ROWS


@pytest.mark.usefixtures("without_the_largest")
def test_the_most_severe_result_is_the_verdict() -> None:
    """error > refuted > inconclusive > proved, where scenarios differ."""
    assert check_module.SEVERITY == ("error", "refuted", "inconclusive", "proved")
    verdict = check(level="registry", registry="quick_fix", budget_s=AMPLE_S)
    assert {result.report.verdict for result in verdict.results} == {"proved", "refuted"}
    assert verdict.verdict == "refuted"


@pytest.mark.socket
@pytest.mark.usefixtures("without_the_largest")
@pytest.mark.thorough
def test_several_processes_come_to_the_same_results() -> None:
    """--jobs 2 gives the same verdicts and the same numbers of executions as one process."""

    def figures(**options: int) -> list[tuple[str, str, int]]:
        found = check(level="registry", registry="quick_fix", budget_s=AMPLE_S, **options)
        return sorted(
            (each.scenario, each.report.verdict, each.report.executions) for each in found.results
        )

    assert figures(executor=processes(2)) == figures()


# ---- registries of a stranger's --------------------------------------------------------------


@pytest.mark.parametrize(
    "scenarios",
    [OTHERS, pytest.param(LARGEST, marks=pytest.mark.thorough)],
    ids=["most", "largest"],
)
@pytest.mark.thorough
def test_a_strangers_registry_that_is_right_is_proved(
    scenarios: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that refuses where ours detaches, and logs nothing, is proved throughout."""
    played = [SCENARIOS[name] for name in scenarios]
    monkeypatch.setitem(SCENARIOS_BY_LEVEL, "registry", tuple(played))
    code, printed = run("check", "--level", "registry", "--registry", f"{OWN}:Refusing", "--json")
    found = json.loads(printed)
    assert {each["scenario"]: each["verdict"] for each in found["results"]} == dict.fromkeys(
        (scenario.name for scenario in played if not scenario.needs), "proved"
    )
    assert code == 0


@pytest.mark.parametrize(
    ("name", "scenario", "violated"),
    [
        ("LetsBothIn", "racing_registers", "S1 one_active"),
        ("WaitsForEver", "swallowed_cancel", "L1 admission"),
        ("KeepsEntries", "second_prompt", "L3 no_leak"),
        ("StopsTheNeighbours", "two_sessions", "S8 identity"),
        ("LocksWhileItWaits", "detached_limit", "S6 isolation"),
        ("WaitsForItself", "second_prompt", "L4 no_deadlock"),
    ],
)
def test_a_strangers_registry_that_is_wrong_is_refuted(
    name: str, scenario: str, violated: str
) -> None:
    """Each wrong registry is refuted by the property that it breaks, with a schedule to replay."""
    code, printed = run("check", "--registry", f"{OWN}:{name}", "--scenario", scenario, "--json")
    (result,) = json.loads(printed)["results"]
    assert (code, result["verdict"]) == (1, "refuted")
    assert result["counterexample"]["property"].startswith(violated)
    assert main(["replay", result["counterexample"]["schedule"]]) == 1


# ---- mutants of production -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutant", "scenario", "violated"), KILLED, ids=[mutant.__name__ for mutant, *_ in KILLED]
)
def test_production_with_one_safeguard_lost_is_refuted(
    mutant: Callable[[pytest.MonkeyPatch], None],
    scenario: str,
    violated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mutant of production is refuted in a scenario, by the property that it breaks."""
    mutant(monkeypatch)
    verdict = check(level="registry", scenario=scenario, registry="production", budget_s=AMPLE_S)
    assert verdict.verdict == "refuted"
    counterexample = verdict.results[0].report.counterexample
    assert counterexample is not None
    assert counterexample.property.startswith(violated)


# ---- what more budget is spent on ------------------------------------------------------------


def test_more_budget_allows_one_departure_more_with_threads() -> None:
    """Their states cannot be read: the program counters of greenlets lie in C."""
    (scenario,) = (
        each for each in SCENARIOS_BY_LEVEL["server"] if each.name == "hung_upstream.thread"
    )
    assert Job("server", "production", scenario).deeper().departures == DEPARTURES + 1


def test_with_a_number_of_departures_nothing_deeper_is_searched() -> None:
    """CI asks for the bound that every scenario is proved to, and ends as soon as it is."""
    report = (
        check(scenario="hung_upstream.async", registry="production", budget_s=AMPLE_S, departures=2)
        .results[0]
        .report
    )
    assert report.claim == "every schedule with up to 2 departures"


def test_no_option_is_named_that_check_has_not() -> None:
    """What never rests is refuted; the bounds of `explore` are not offered, as `check` has none."""
    subject = f"{OWN}:NeverRests"
    code, printed = run("check", "--registry", subject, "--scenario", "second_prompt")
    assert code == 1
    assert "nothing spins while virtual time stands still" in printed
    assert "would have ended later" not in printed
    assert "--spin-max" not in printed
