"""A worker killed between two statements leaves SQLite's file as it was, or as it will be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.limits import AMPLE_S, HANGS_S
from tests.server.support import Output, process

pytestmark = [pytest.mark.socket, pytest.mark.once]


def crashes(*options: str) -> tuple[int, list[str]]:
    """Exit code and output of the program that forks and kills; on a busy machine it takes long."""
    # In memory, where there is such a folder: each crash makes a disk write what it has.
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        process("-m", "tests.server.sqlite_crashes", folder, *options) as child,
    ):
        output = Output(child)
        code = child.wait(AMPLE_S)
        assert output.is_over_within(HANGS_S)
        return code, output.lines


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--some",), id="some rows"),
        pytest.param(("--instructions",), id="instructions", marks=pytest.mark.thorough),
        pytest.param(("--all",), id="circumstances", marks=pytest.mark.soak),
    ],
)
def test_what_is_cut_off_has_not_been_asked(options: tuple[str, ...]) -> None:
    """Nothing is half done; who comes is answered as by the lease table, and finds the dead."""
    code, lines = crashes(*options)
    print(*lines[-20:], sep="\n")
    assert code == 0
    operations, kills = (int(word) for word in lines[-1].split() if word.isdigit())
    assert kills > 4 * operations


def test_an_operation_without_a_transaction_is_found_half_done() -> None:
    """The same crashes, with each statement committed by itself."""
    code, lines = crashes("--autocommit")
    assert code == 1
    assert any(line.startswith("tests.server.conformance.Differs") for line in lines)
