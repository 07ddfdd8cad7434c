"""The table of the settings, as README.md of this folder has it: `python -m server.settings_table`.

Made from the fields of `Settings` and from the comments above them, which say why.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from server import settings
from server.environment import variables_of
from server.settings import Settings

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- settings -->\n", "<!-- end -->\n"


def table() -> str:
    """A row for each setting. Raises ValueError for one without a comment."""
    rows = ["| setting | default | why |", "|---|---|---|"]
    for name, reason in _reasons().items():
        variables = " or ".join(f"`{variable}`" for variable in variables_of(name))
        default = Settings.model_fields[name].get_default(call_default_factory=True)
        shown = (
            "–" if default in (None, "", {}) else f"{default:g}" if _is_float(default) else default
        )
        rows.append(f"| {variables} | {shown} | {reason} |")
    return "\n".join(rows) + "\n"


def document(readme: str) -> str:
    """The text of README.md with the table of the code in it."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _is_float(value: object) -> bool:
    return isinstance(value, float)


def _reasons() -> dict[str, str]:
    """The comment above each field, in the order of the code."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    reasons = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            if name in Settings.model_fields:
                reasons[name] = _comment_above(lines, node.lineno)
    missing = [name for name in Settings.model_fields if not reasons.get(name)]
    if missing:
        raise ValueError(f"no comment above {', '.join(missing)} in server/settings.py")
    return reasons


def _comment_above(lines: list[str], line_number: int) -> str:
    comment: list[str] = []
    for line in reversed(lines[: line_number - 1]):
        text = line.strip()
        # A heading stands alone, with a blank line behind it.
        if not text.startswith("# "):
            break
        comment.insert(0, text.removeprefix("# "))
    # A bar would end the cell of the table.
    return " ".join(comment).replace("|", "\\|")


if __name__ == "__main__":
    README.write_text(document(README.read_text("utf-8")), "utf-8")
    print(table(), end="")
