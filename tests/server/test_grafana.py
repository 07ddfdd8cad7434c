"""server/grafana.json is a dashboard of the metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

from server.grafana import FILE, text
from server.metrics import METRICS, WORKER, Kind

DASHBOARD: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
# PromQL's functions and words, and what Grafana puts in.
_WORDS = {"sum", "by", "rate", "histogram_quantile", "le", "$__rate_interval", "$worker"}


def queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"][1:]]
    return [*found, *variables]


def labels_of_samples() -> dict[str, set[str]]:
    """By the name of a sample, which for a histogram is not the metric's."""
    return {
        f"{each.name}_bucket" if each.kind is Kind.HISTOGRAM else each.name: {*each.labels, WORKER}
        for each in METRICS
    }


def test_the_dashboard_is_that_of_the_code() -> None:
    """`python -m server.grafana` writes it."""
    assert FILE.read_text("utf-8") == text()


def test_every_metric_and_label_of_the_dashboard_exists() -> None:
    """In each query; and every metric is in one, so that none is forgotten."""
    known = labels_of_samples()
    named = set()
    for query in queries():
        metrics = set(re.findall(r"onestream_\w+", query))
        assert metrics <= set(known), query
        named |= metrics
        words = set(re.findall(r"(?<![\w\"])[a-z_]+(?![\w(\"])", re.sub(r'"[^"]*"', '""', query)))
        for metric in metrics:
            labels = words - metrics - _WORDS - {"label_values", "__rate_interval"}
            assert labels <= known[metric], query
    assert named == set(known)


def test_it_has_what_grafana_needs_to_import_it() -> None:
    """A schema, a variable for the data source that all use, panels with ids side by side."""
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"]
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = DASHBOARD["panels"]
    assert len({each["id"] for each in panels}) == len(panels) > 0
    places = set()
    for panel in panels:
        assert panel["type"] == "timeseries"
        assert panel["title"]
        assert panel["targets"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(each["uid"] == "${datasource}" for each in sources)
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not places & cells
        places |= cells
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert (
                '{worker=~"$worker"}' in target["expr"] or ', worker=~"$worker"}' in target["expr"]
            )
