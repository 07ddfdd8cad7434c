"""What CI's scripts say: how each stage ended, and why a Python cannot be had."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.limits import HANGS_S

CI = Path(__file__).parents[1] / ".ci"

pytestmark = pytest.mark.socket


def run_of(stages: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail\n. {CI / 'stages'}\n{stages}\nall_passed\n"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=HANGS_S)


TESTS = """\
tests() {
  echo "a long story"
  echo "FAILED tests/test_a.py::test_b - assert 1 == 2"
  echo "1 failed, 2 passed in 3.00s"
  return 1
}"""


def test_after_a_stage_that_failed_the_others_run_and_the_end_names_it() -> None:
    """The run has failed; its end has each stage, and of what failed the tests or last lines."""
    ended = run_of(
        f"{TESTS}\nstage 'a, b' sh -c 'echo fine'\nstage tests tests\nstage rest sh -c 'exit 3'"
    )
    assert ended.returncode == 1
    before, _, end = ended.stdout.partition("==== How long each stage took")
    assert "fine" in before
    assert "a long story" in before
    how = [line.split(maxsplit=2)[2] for line in end.splitlines()[1:4]]
    assert how == ["ok      a, b", "FAILED  tests", "FAILED  rest"]
    assert "FAILED: tests\nFAILED tests/test_a.py::test_b - assert 1 == 2\n1 failed" in end
    assert "a long story" not in end
    assert "FAILED: rest" in end


def test_a_run_without_a_failure_has_passed_and_says_what_was_left_out() -> None:
    """What could not be done on this machine stands at the end as well, and fails nothing."""
    ended = run_of("stage 'with Ray' echo 'NOT PASSED: it did not start'")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("NOT PASSED: it did not start") == 2
    assert "FAILED" not in ended.stdout


def test_a_run_that_is_broken_off_says_what_came_of_it() -> None:
    """The stages so far, and in which one it ended."""
    ended = run_of("stage first true\nstage second kill $$")
    assert ended.returncode != 0
    assert "ok      first" in ended.stdout
    assert "BROKEN OFF: second" in ended.stdout


@pytest.mark.parametrize(
    ("command", "text", "reason"),
    [
        ("id", "echo 1000", "only root can make"),
        ("apt-get", "exit 1", "apt uses no mirror of Debian"),
    ],
)
def test_ci_says_why_a_python_cannot_be_had(
    tmp_path: Path, command: str, text: str, reason: str
) -> None:
    """Without root, or where apt does not work: a reason, and no failure of everything."""
    for name, script in {"id": "echo 0", "debootstrap": "exit 1", command: text}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    prepare = [str(CI / "pythons"), "prepare", "3.14"]
    ended = subprocess.run(
        prepare, env=environment, capture_output=True, text=True, timeout=HANGS_S
    )
    assert ended.returncode == 3
    assert reason in ended.stderr
