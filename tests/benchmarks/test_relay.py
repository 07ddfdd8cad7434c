"""The benchmarks of the server run; how fast it is, they say themselves."""

from __future__ import annotations

import pytest

from tests.benchmarks import many, relay
from tests.benchmarks.relays import LITELLM


@pytest.fixture(autouse=True)
def _any_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stays on the cores it has."""
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: None)


@pytest.mark.socket
@pytest.mark.thorough
def test_the_relay_is_measured_beside_bare_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Every side relays all chunks, and has a line."""
    relay.main(["--rounds", "1", "--streams", "2", "--chunks", "20"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:]] == list(relay.SIDES)


@pytest.mark.socket
@pytest.mark.thorough
def test_many_prompts_at_once_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """No prompt is lost, of the server and of the bare relay."""
    many.main(["--rounds", "1", "--prompts", "5", "--chunks", "3", "--gap", "0.01"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in printed[1:3]] == ["0", "0"], printed


@pytest.mark.socket
@pytest.mark.thorough
def test_a_second_prompt_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """It gets its first chunk in a free session and in a busy one."""
    many.main(["--second", "3"])
    assert capsys.readouterr().out.count("busy") == 2


@pytest.mark.socket
@pytest.mark.thorough
def test_a_side_that_is_not_installed_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LiteLLM's proxy is where a variable says; the others are measured all the same."""
    monkeypatch.delenv(LITELLM, raising=False)
    relay.main(["--rounds", "1", "--chunks", "20", "--sides", "litellm", "aiohttp"])
    left_out, _, measured = capsys.readouterr().out.splitlines()
    assert LITELLM in left_out
    assert measured.startswith("aiohttp")
