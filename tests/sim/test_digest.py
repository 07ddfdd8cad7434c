"""What a schedule's digest depends on."""

from __future__ import annotations

import functools
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sim import World
from sim.counterexamples import digest
from sim.counterexamples.digest import digest_of
from sim.exploration.subject import Subject

ROOT = Path(__file__).parents[2]
KERNEL = sorted((ROOT / "sim" / "kernel").rglob("*.py"))


async def program(world: World) -> None:
    await world.outside("a")


def test_the_kernel_is_what_an_execution_imports() -> None:
    """No module that decides what happens is left out, and none that tells it is in."""
    loaded = "import sys, sim.kernel.execution; print(*(m for m in sys.modules if m[:4] == 'sim.'))"
    found = subprocess.run(
        [sys.executable, "-c", loaded], check=True, capture_output=True, text=True
    ).stdout.split()
    files = (str(path.relative_to(ROOT))[: -len(".py")] for path in KERNEL)
    assert sorted(found) == sorted(f.replace("/", ".").removesuffix(".__init__") for f in files)


def test_a_scenario_of_ours_is_no_part_of_a_users_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our files only the kernel's are read for a program that is somebody else's."""
    read: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    digest._kernel.cache_clear()
    digest._package.cache_clear()
    assert Subject.of(program).digest
    assert sorted(read) == sorted([*(path.name for path in KERNEL), "test_digest.py"])


def test_a_package_stands_for_all_its_files(tmp_path: Path) -> None:
    """A change anywhere in it changes the digest, also where nothing else does."""
    package = types.ModuleType("package")
    package.__file__, package.__path__ = str(tmp_path / "__init__.py"), [str(tmp_path)]
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.py").write_text("one = 1\n")
    before = digest_of([package])
    digest._package.cache_clear()
    assert digest_of([package]) == before
    digest._package.cache_clear()
    (tmp_path / "below" / "one.py").write_text("one = 2\n")
    assert digest_of([package]) != before


def module_of(file: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with this source, in this file unless it is `<stdin>`."""
    module = types.ModuleType("of_a_user")
    monkeypatch.setitem(sys.modules, "of_a_user", module)
    if file.name != "<stdin>":
        file.write_bytes(source.encode())
        module.__file__ = str(file)
    exec(compile(source, str(file), "exec"), vars(module))
    return module


SOURCE = (
    "class Program:\n    async def __call__(self, world):\n        assert 1 in {1, 'b', None}\n"
)


def test_who_built_the_interpreter_and_ends_of_lines_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same version and the same text have the same digest on every machine."""
    digests = set()
    for ends, version in (("\n", sys.version), ("\r\n", "3.11.7 (main, today) [another compiler]")):
        monkeypatch.setattr(sys, "version", version)
        digest._kernel.cache_clear()
        module = module_of(tmp_path / "users.py", SOURCE.replace("\n", ends), monkeypatch)
        digests.add(digest_of([module.Program]))
    digest._kernel.cache_clear()
    assert len(digests) == 1


def test_a_program_without_a_file_has_the_digest_of_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not of the address of an object; and a constant in it is part of it."""

    def of(source: str) -> str:
        module = module_of(Path("<stdin>"), source, monkeypatch)
        return digest_of([module.Program()])

    assert of(SOURCE) == of("\n" + SOURCE)
    assert of(SOURCE) != of(SOURCE.replace("'b'", "'c'"))
    assert of(SOURCE) != of(SOURCE.replace("1 in", "2 in"))


def test_a_partial_is_the_program_that_it_calls() -> None:
    """By its name and its file: it is an object of functools, whose file never changes."""
    bound = functools.partial(functools.partial(program, world=None))
    assert Subject.of(bound).name == Subject.of(program).name
    assert Subject.of(bound).digest == Subject.of(program).digest
