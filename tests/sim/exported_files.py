"""Runs exported files as their receivers would: without the simulator, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import HANGS_S

HERE = getattr(sys, "_base_executable", sys.executable)
"""The interpreter without this environment: it cannot import `sim`."""

_THREADED = ("deer-flow#5395", "KiroCrew#7809", "mlx-openai-server#269", "gh-111358")
NOT_FORCED = {
    **dict.fromkeys(_THREADED, "worker threads run in it"),
    "asyncio#78": "the program uses sockets",
}
"""Published bugs that no selector can bring about on stock asyncio, with what is said of each."""


def run_alone(text: str, folder: Path, python: str = HERE) -> tuple[int, str]:
    """Exit code and output of an exported file."""
    alone = folder / "alone"
    alone.mkdir(exist_ok=True)
    file = alone / "exported.py"
    file.write_text(text, encoding="utf-8")
    # Neither the current directory nor a variable adds a place to import from.
    run = subprocess.run(
        [python, "-I", str(file)], cwd=alone, capture_output=True, text=True, timeout=HANGS_S
    )
    return run.returncode, run.stdout + run.stderr
