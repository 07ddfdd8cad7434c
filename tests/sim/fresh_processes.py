"""The same program in several processes, each of which hashes strings by another seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.limits import HANGS_S

ROOT = Path(__file__).parents[2]
HASH_SEEDS = ("0", "4242")


def printed_in_fresh_processes(program: str, seeds: Sequence[str] = HASH_SEEDS) -> set[str]:
    """The set of their outputs: one text for a deterministic program."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for seed in seeds
    ]
    try:
        printed = {process.communicate(timeout=HANGS_S)[0].strip() for process in processes}
    finally:
        for process in processes:
            # One that hangs is not left behind; nothing happens to one that has ended.
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed
