"""A Grafana dashboard from rows of panels: places, ids, data source. Pure; knows no metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Object = dict[str, Any]

SCHEMA = 39
"""Version of the dashboard model, of Grafana 11; newer ones bring it up themselves."""
WIDE = 24
SOURCE: Object = {"type": "prometheus", "uid": "${datasource}"}
HEIGHTS = {"stat": 4, "timeseries": 8, "table": 8}


@dataclass(frozen=True)
class Panel:
    """One graph: title, unit (Grafana's name of it), and (expression, legend) of each line."""

    title: str
    unit: str
    targets: Sequence[tuple[str, str]]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    width: int = 8
    text: str = ""
    limits: Sequence[tuple[float, str]] = ()
    """(from, colour): from where on a value is told in another colour."""
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one title, laid out from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """Chosen at the top: the values of a label."""

    name: str
    query: str
    current: str = ""
    many: bool = False


@dataclass
class _Place:
    x: int = 0
    y: int = 0
    tallest: int = 0
    ids: int = field(default=0)

    def next_id(self) -> int:
        self.ids += 1
        return self.ids

    def line(self) -> None:
        self.x, self.y, self.tallest = 0, self.y + self.tallest, 0

    def put(self, width: int, height: int) -> Object:
        if self.x + width > WIDE:
            self.line()
        found = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x += width
        self.tallest = max(self.tallest, height)
        return found


def dashboard(uid: str, title: str, tags: Sequence[str], variables: Sequence[Variable], rows: Sequence[Row]) -> Object:
    """As Grafana imports it."""
    place = _Place()
    panels: list[Object] = []
    for row in rows:
        place.line()
        head = {"id": place.next_id(), "type": "row", "title": row.title, "collapsed": False, "panels": []}
        panels.append(head | {"gridPos": place.put(WIDE, 1)})
        place.line()
        panels += [_panel(panel, place) for panel in row.panels]
    return {
        "uid": uid,
        "title": title,
        "tags": list(tags),
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source(), *(_variable(one) for one in variables)]},
        "panels": panels,
    }


def _source() -> Object:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "default", "value": "default"},
        "hide": 0,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def _variable(one: Variable) -> Object:
    found: Object = {
        "name": one.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": one.query, "refId": "variable"},
        "hide": 0,
        "includeAll": one.many,
        "multi": one.many,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }
    if one.many:
        found |= {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    elif one.current:
        found["current"] = {"text": one.current, "value": one.current}
    return found


def _panel(panel: Panel, place: _Place) -> Object:
    steps: list[Object] = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.limits]
    defaults: Object = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    options: Object
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        options = {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        }
    elif panel.kind == "table":
        del defaults["min"]
        options = {"showHeader": True}
    else:
        custom: Object = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if panel.stacked else 5}
        custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        custom["thresholdsStyle"] = {"mode": "line" if panel.limits else "off"}
        defaults["custom"] = custom
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    targets = []
    for number, (expression, legend) in enumerate(panel.targets):
        target: Object = {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "range": panel.kind != "table",
            "instant": panel.kind == "table",
        }
        if panel.kind == "table":
            target["format"] = "table"
        targets.append(target)
    found: Object = {
        "id": place.next_id(),
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place.put(panel.width, HEIGHTS[panel.kind]),
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }
    if panel.text:
        found["description"] = panel.text
    return found
