"""A registry that the command line names by its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.bench.subjects import registry_class


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        ("import os\nraise RuntimeError('no')\n", "RuntimeError: no"),
        ("\n''.no\n", "AttributeError"),
    ],
)
def test_a_module_that_raises_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, raised: str
) -> None:
    """It names the registry, the module, what that raised, and the line."""
    file = tmp_path / f"raises_{raised[:3].lower()}.py"
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"module {file.stem} cannot be imported") as caught:
        registry_class(f"{file.stem}:Registry")
    assert raised in str(caught.value)
    assert f"{file}:2" in str(caught.value)
