"""The times of files, beside the clocks of an execution: a cache by age is judged as on stock."""

from __future__ import annotations

import asyncio
import logging.handlers
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sim import World, explore

Program = Callable[[Path], Awaitable[None]]


def age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


async def written(folder: Path) -> None:
    path = folder / "new"
    path.write_text("1")
    assert age_s(path) < 60
    await asyncio.sleep(0.1)
    assert 0.1 <= age_s(path) < 60
    written_s = path.stat().st_mtime
    path.write_text("2")
    assert path.stat().st_mtime > written_s


async def there_before(folder: Path) -> None:
    assert 3600 <= age_s(folder / "old") < 3700
    assert 0 <= age_s(folder / "fresh") < 100
    await asyncio.sleep(0.1)
    assert age_s(folder / "fresh") >= 0.1


async def read_in_other_ways(folder: Path) -> None:
    path = folder / "new"
    path.write_text("1")
    seen = path.stat()
    assert os.path.getmtime(path) == seen.st_mtime == path.lstat().st_mtime  # noqa: ASYNC240
    assert seen.st_mtime_ns == pytest.approx(seen.st_mtime * 1e9, abs=1000)
    assert seen[8] == int(seen.st_mtime)
    with path.open() as file:
        assert os.fstat(file.fileno()).st_mtime == seen.st_mtime
    assert seen.st_size == 1


async def set_by_the_program(folder: Path) -> None:
    path = folder / "new"
    path.touch()
    os.utime(path, (time.time() - 50, time.time() - 50))
    assert 50 <= age_s(path) < 110
    copied = folder / "copied"
    shutil.copy2(path, copied)
    assert 50 <= age_s(copied) < 110
    os.utime(path)
    assert age_s(path) < 60


async def moved(folder: Path) -> None:
    path = folder / "new"
    path.write_text("1")
    await asyncio.sleep(0.1)
    path.replace(folder / "old")
    assert 0.1 <= age_s(folder / "old") < 60


async def a_log_that_is_rolled_over(folder: Path) -> None:
    log = folder / "old"
    handler = logging.handlers.TimedRotatingFileHandler(log, when="S", interval=1000)
    record = logging.makeLogRecord({"msg": "first"})
    try:
        assert handler.shouldRollover(record)
    finally:
        handler.close()


PROGRAMS = [
    written,
    there_before,
    read_in_other_ways,
    set_by_the_program,
    moved,
    a_log_that_is_rolled_over,
]


def _folder(at: Path) -> Path:
    """Anew, as each execution finds what the last one has left."""
    at.mkdir()
    (at / "fresh").touch()
    (at / "old").touch()
    hour_ago = time.time() - 3600
    os.utime(at / "old", (hour_ago, hour_ago))
    return at


@pytest.mark.socket
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_a_file_is_as_old_as_on_stock(program: Program, tmp_path: Path) -> None:
    """What holds of its age there is proved."""
    asyncio.run(program(_folder(tmp_path / "stock")))  # type: ignore[arg-type]
    folder = _folder(tmp_path / "simulated")

    async def explored(world: World) -> None:
        here = folder.with_name(f"{folder.name} {len(os.listdir(tmp_path))}")
        shutil.copytree(folder, here)
        await program(here)

    report = explore(explored)
    assert report.verdict == "proved", report.text
