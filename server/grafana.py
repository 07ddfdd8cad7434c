"""The dashboard of the metrics for Grafana, `grafana.json`: `python -m server.grafana`.

Each panel is a row here; a test compares the file, and looks each metric up in the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("grafana.json")

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WORKERS = 'worker=~"$worker"'
# Of Grafana's 24 columns, in its rows.
_WIDTH, _HEIGHT = 8, 8
_PER_ROW = 24 // _WIDTH


@dataclass(frozen=True)
class Panel:
    """queries: PromQL and the legend of its lines; W is the chosen workers."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    is_stacked: bool = False


def _rate(metric: str, by: str = "") -> tuple[str, str]:
    grouped = f" by ({by})" if by else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else metric
    return f"sum{grouped} (rate({metric}{{{_WORKERS}}}[$__rate_interval]))", legend


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le) (rate({metric}_bucket{{{_WORKERS}}}[$__rate_interval]))"
    return tuple(
        (f"histogram_quantile({share}, {rate})", f"{share:.0%}") for share in (0.5, 0.9, 0.99)
    )


PANELS = (
    Panel(
        "Streams by state",
        "short",
        ((f"sum by (state) (onestream_streams{{{_WORKERS}}})", "{{state}}"),),
        is_stacked=True,
    ),
    Panel(
        "Ends per second",
        "ops",
        (_rate("onestream_streams_ended_total", "end, reason"),),
        is_stacked=True,
    ),
    Panel(
        "Prompts and chunks per second",
        "ops",
        (_rate("onestream_prompts_total"), _rate("onestream_chunks_total")),
    ),
    Panel("Time to the first chunk", "s", _quantiles("onestream_first_chunk_seconds")),
    Panel("Wait for the session", "s", _quantiles("onestream_admission_wait_seconds")),
    Panel(
        "Superseded and detached per second",
        "ops",
        (_rate("onestream_supersessions_total"), _rate("onestream_detached_total")),
    ),
    Panel(
        "Sessions that are blocked: overdue, detached",
        "short",
        (
            (f"sum(onestream_streams_overdue{{{_WORKERS}}})", "overdue"),
            (f'sum(onestream_streams{{state="detached", {_WORKERS}}})', "detached"),
        ),
    ),
    Panel(
        "Errors of Ollama per second", "ops", (_rate("onestream_upstream_errors_total", "kind"),)
    ),
    Panel(
        "Requests refused per second",
        "ops",
        (_rate("onestream_requests_refused_total", "status, code"),),
    ),
    Panel("Store: requests take", "s", _quantiles("onestream_store_seconds")),
    Panel(
        "Store: unanswered requests per second, workers without it",
        "ops",
        (
            _rate("onestream_store_errors_total", "operation"),
            (f"sum(1 - onestream_store_reachable{{{_WORKERS}}})", "workers without it"),
        ),
    ),
    Panel(
        "Leases: renewed and lost per second",
        "ops",
        (_rate("onestream_lease_renewals_total"), _rate("onestream_lease_losses_total")),
    ),
)


def dashboard() -> dict[str, Any]:
    """As Grafana's `Import` takes it; it asks for the data source at its top."""
    return {
        "uid": "onestream",
        "title": "onestream",
        "description": "Streams, waits, errors and leases of onestream; made by server/grafana.py",
        "tags": ["onestream", "ollama"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": [_source_variable(), _worker_variable()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }


def _worker_variable() -> dict[str, Any]:
    """All of them, one process without a store included, whose label is empty."""
    return {
        "name": "worker",
        "label": "Worker",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(onestream_streams, worker)", "refId": "workers"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _PER_ROW)
    stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
    custom = {
        "drawStyle": "line",
        "fillOpacity": 30 if panel.is_stacked else 0,
        "showPoints": "never",
        "stacking": stacking,
    }
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query,
                "legendFormat": name,
            }
            for place, (query, name) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
