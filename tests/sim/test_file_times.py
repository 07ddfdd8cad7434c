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


async def written_through_links(folder: Path) -> None:
    path, link, hard = folder / "new", folder / "link", folder / "hard"
    path.write_text("1")
    link.symlink_to(path)
    await asyncio.sleep(0.2)
    assert time.time() - link.lstat().st_mtime >= 0.2
    link.write_text("22")
    assert age_s(path) == pytest.approx(age_s(link), abs=0.15)
    assert age_s(path) < 0.2 <= time.time() - link.lstat().st_mtime
    hard.hardlink_to(path)
    assert hard.stat().st_mtime == path.stat().st_mtime
    await asyncio.sleep(0.2)
    hard.write_text("333")
    assert age_s(path) < 0.2
    hard.unlink()
    await asyncio.sleep(0.2)
    assert 0.2 <= age_s(path) < 60


async def a_link_in_the_way(folder: Path) -> None:
    (folder / "v1").mkdir()
    (folder / "current").symlink_to("v1")
    (folder / "current" / "new").write_text("1")
    await asyncio.sleep(0.2)
    (folder / "v1" / "new").write_text("22")
    assert age_s(folder / "current" / ".." / "v1" / "new") < 0.2
    (folder / "v1").rename(folder / "v2")
    assert age_s(folder / "v2" / "new") < 60


async def a_directory_that_changes(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()

    async def is_changed_by(act: Callable[[], object]) -> None:
        await asyncio.sleep(0.2)
        assert age_s(inner) >= 0.2
        act()
        assert age_s(inner) < 0.2

    await is_changed_by((inner / "file").touch)
    await is_changed_by((inner / "sub").mkdir)
    await is_changed_by((inner / "sub").rmdir)
    await is_changed_by(lambda: (inner / "link").symlink_to("file"))
    await is_changed_by(lambda: (inner / "hard").hardlink_to(inner / "file"))
    await is_changed_by(lambda: (inner / "file").rename(inner / "other"))
    await is_changed_by((inner / "other").unlink)
    await asyncio.sleep(0.2)
    inner.mkdir(exist_ok=True)
    (inner / "hard").write_text("no new name")
    assert age_s(inner) >= 0.2


async def listed(folder: Path) -> None:
    (folder / "new").write_text("1")
    (folder / "inner").mkdir()
    await asyncio.sleep(0.1)
    with os.scandir(folder) as entries:
        for entry in entries:
            assert isinstance(entry, os.DirEntry)
            assert entry.stat().st_mtime == os.stat(entry).st_mtime
            assert entry.is_dir() == (entry.name == "inner")
            assert entry.path == os.fspath(folder / entry.name)
            assert 0 <= time.time() - entry.stat().st_mtime < 3700
    found = [name for _, _, names in os.walk(folder) for name in names]
    assert sorted(found) == ["fresh", "new", "old"]
    copy = folder.with_name(f"copy of {folder.name}")
    shutil.copytree(folder, copy)
    assert 3600 <= age_s(copy / "old") < 3700
    shutil.rmtree(copy)


PROGRAMS = [
    written_through_links,
    a_link_in_the_way,
    a_directory_that_changes,
    listed,
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
