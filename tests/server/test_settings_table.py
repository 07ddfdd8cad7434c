"""server/README.md has the settings of the code, and its files."""

from __future__ import annotations

from server.settings import Settings
from server.settings_table import README, document, table


def test_the_document_has_the_settings_of_the_code() -> None:
    """With defaults and reasons; `python -m server.settings_table` writes them."""
    assert README.read_text("utf-8") == document(README.read_text("utf-8"))


def test_every_setting_has_its_reason() -> None:
    """A row for each, and none with an empty cell."""
    rows = table().splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    assert not any("|  |" in row for row in rows)


def test_the_document_names_every_file() -> None:
    """Read in its order, no field is passed over."""
    text = README.read_text("utf-8")
    names = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    assert {name for name in names if f"`{name}`" not in text} == set()
