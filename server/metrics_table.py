"""The table of the metrics in README.md of this folder: `python -m server.metrics_table`."""

from __future__ import annotations

from server.metrics import METRICS
from server.settings_table import END, README

BEGIN = "<!-- metrics -->\n"


def table() -> str:
    rows = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels) or "–"
        rows.append(f"| `{each.name}` | {each.kind.value} | {labels} | {each.what} |")
    return "\n".join(rows) + "\n"


def document(readme: str) -> str:
    """The text of README.md with the table of the code in it."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(document(README.read_text("utf-8")), "utf-8")
    print(table(), end="")
