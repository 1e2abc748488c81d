"""Rules and dashboards: promtool reads them, every alert fires and stays quiet where it should, what they ask for is

exported, and every alert has its runbook. promtool is built from Go's modules where it is not there yet.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import get_args

import pytest
import yaml
from prometheus_client import generate_latest

import exported
from alert_cases import OPERATOR, PLATFORM, Case
from chatcluster.core.metrics import SECONDS
from chatcluster_operator.cache import Cache
from chatcluster_operator.exposition import Exposition
from chatcluster_operator.health import Lag
from chatcluster_operator.names import Cluster
from chatcluster_operator.observability import AlertName, Objectives, Thresholds
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.render.observability import board_operator, board_platform, observers
from chatcluster_operator.render.observability.monitoring import operator_rules, platform_rules
from chatcluster_operator.spec import Spec
from chatcluster_operator.watches import Watches
from clusters import SPEC, changed
from prebuilt import ROOT
from promtool import promtool, tool

CLUSTER = Cluster("team", "main", "uid-1")
BASE = "https://runbooks.example/chat"


def rendered(spec=SPEC, **more):
    """The groups of rules of a ChatCluster."""
    asked = changed(spec, "observability", {"prometheusRules": {"runbookBase": BASE, **more}})
    (found,) = observers(CLUSTER, Spec.model_validate(asked))
    return found["spec"]["groups"]


def embedded():
    return changed(SPEC, "dependencies", {"embedded": {}})


RULES = {
    "platform": rendered(),
    "embedded": rendered(embedded()),
    "file": platform_rules(),
    "operator": operator_rules(),
}
BOARDS = {"platform": board_platform.board(), "operator": board_operator.board()}


def alerts(groups):
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def written(folder, groups, name="rules.yaml"):
    (folder / name).write_text(yaml.safe_dump({"groups": groups}))
    return name


# -- as Prometheus reads them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", RULES)
def test_promtool_takes_the_rules(tmp_path, which):
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", written(tmp_path, RULES[which]), folder=tmp_path)
    assert "SUCCESS" in said


def group_of(alert: str, case: Case, description: str, *, fires: bool):
    """Of a file of promtool's tests. Labels that the description shows must be there."""
    shown = "".join(f',{name}!=""' for name in sorted(set(re.findall(r"\$labels\.(\w+)", description))))
    expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"{shown}}})'
    samples = case.fires if fires else case.quiet
    return {
        "name": f"{alert} {'fires' if fires else 'stays quiet'}",
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in samples],
        "promql_expr_test": [
            {
                "expr": expr if fires else f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": case.many}] if fires else [],
            }
        ],
    }


@pytest.mark.parametrize(("which", "cases"), [("platform", PLATFORM), ("operator", OPERATOR)])
def test_every_alert_fires_when_it_should_and_only_then(tmp_path, which, cases):
    texts = {rule["alert"]: rule["annotations"]["description"] for rule in alerts(RULES[which])}
    assert sorted(cases) == sorted(texts), "every alert has a case"
    tests = {
        "rule_files": [written(tmp_path, RULES[which])],
        "evaluation_interval": "1m",
        "tests": [
            group_of(alert, case, texts[alert], fires=fires) for alert, case in cases.items() for fires in (True, False)
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests, sort_keys=False))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_a_case_that_does_not_hold_is_found(tmp_path):
    """What the test above would say of an alert that fires when it should not."""
    case = PLATFORM["ChatClusterPodDown"]
    wrong = Case(case.quiet, case.fires)
    tests = {
        "rule_files": [written(tmp_path, RULES["platform"])],
        "evaluation_interval": "1m",
        "tests": [group_of("ChatClusterPodDown", wrong, "", fires=fires) for fires in (True, False)],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert (done.stdout + done.stderr).count("FAILED") >= 1


def test_texts_have_the_numbers(tmp_path):
    series = [{"series": series, "values": values} for series, values in PLATFORM["ChatClusterGatewayFull"].fires]
    expected = {
        "exp_labels": {
            "namespace": "team", "chatcluster": "main", "component": "gateway", "pod": "main-gateway-1",
            "severity": "warning", "team": "chat",
        },
        "exp_annotations": {
            "summary": "A gateway is almost full.",
            "description": "team/main, gateway main-gateway-1 holds 18500 connections of 20000.",
            "runbook_url": f"{BASE}#chatclustergatewayfull",
        },
    }  # fmt: skip
    test = {"alertname": "ChatClusterGatewayFull", "eval_time": "30m", "exp_alerts": [expected]}
    tests = {
        "rule_files": [written(tmp_path, rendered(alertLabels={"team": "chat"}))],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": [test]}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_few_sends_wake_nobody(tmp_path):
    """One of two that fails at night is half of all."""
    case = PLATFORM["ChatClusterSendErrorsBurnFast"]
    few = tuple((series, f"0+{number}x600") for (series, _), number in zip(case.fires, (0.5, 0, 0.5), strict=True))
    tests = {
        "rule_files": [written(tmp_path, RULES["platform"])],
        "evaluation_interval": "1m",
        "tests": [group_of("ChatClusterSendErrorsBurnFast", Case((), few, "2h"), "", fires=False)],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


# -- what they ask for --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_operator():
    cache = Cache()
    condition = {"type": "Ready", "status": "True", "reason": "Ready"}
    part = {"desired": 3, "ready": 3, "updated": 3, "connections": 5}
    status = {
        "phase": "Ready", "conditions": [condition], "components": {"gateway": part}, "draining": 1,
        "drains": [{"pod": "a", "connections": 2}],
    }  # fmt: skip
    cache.clusters["team", "main"] = {"status": status}

    async def measure(namespace, pod):
        return None

    reconciler = Reconciler(None, cache, measure)
    reconciler.metrics.requests.labels("get", "pods", "200").inc()
    reconciler.metrics.latency.labels("get").observe(0.1)
    watches = Watches(None, reconciler)
    watches._alive["Pod"] = time.monotonic()
    exposition = Exposition(reconciler, watches, Lag(), leads=lambda: True, lease_age=lambda: 1.0)
    return exported.of_text(generate_latest(exposition._registry).decode())


def expressions():
    for which, groups in RULES.items():
        for group in groups:
            for rule in group["rules"]:
                yield which, rule.get("alert") or rule["record"], rule["expr"]
    for which, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{which} dashboard", panel["title"], target["expr"]
        for variable in board["templating"]["list"]:
            query = variable["query"]
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", query if isinstance(query, str) else query["query"])
            if match:
                yield f"{which} dashboard", variable["name"], f"sum by ({match.group(2)}) ({match.group(1)})"


def test_every_metric_and_label_that_is_asked_for_is_exported(of_operator):
    runtime = exported.of_runtime()
    recorded = {
        rule["record"]: set(labels)
        for which, labels in (("platform", ("namespace", "chatcluster")), ("operator", ("namespace",)))
        for group in RULES[which]
        for rule in group["rules"]
        if "record" in rule
    }
    there = {**runtime, **of_operator, **exported.PROCESS, **exported.SCRAPED, **recorded}
    asked = list(expressions())
    assert len(asked) > 200
    for where, what, expression in asked:
        used = exported.used(expression)
        grouped = used.pop("")
        assert used, expression
        for metric, labels in used.items():
            assert metric in there, f"{where}, {what}: nobody exports {metric}"
            allowed = there[metric] | exported.TARGET
            assert labels <= allowed, f"{where}, {what}: {metric} has no {labels - allowed}"
        of_all = set().union(*(there[metric] for metric in used)) | exported.TARGET
        assert grouped <= of_all, f"{where}, {what}: grouped by {grouped - of_all}, which nothing in it has"


def test_the_objective_is_a_bound_of_the_histogram():
    """A bound that is none has no bucket, and the rule no value."""
    for milliseconds in get_args(Objectives.model_fields["ack_milliseconds"].annotation):
        assert milliseconds / 1000 in SECONDS
        (rule,) = (
            rule
            for group in rendered(objectives={"ackMilliseconds": milliseconds})
            for rule in group["rules"]
            if rule.get("record") == "chatcluster:acks_slow:ratio_rate5m"
        )
        assert f'le="{float(milliseconds / 1000)!r}"' in rule["expr"]


# -- what the spec says of them -----------------------------------------------------------------------------------


def test_the_spec_names_every_alert_and_leaves_out_what_is_said():
    assert sorted(rule["alert"] for rule in alerts(RULES["platform"])) == sorted(get_args(AlertName))
    without = ["ChatClusterPushLate", "ChatClusterRebalances"]
    left = {rule["alert"] for rule in alerts(rendered(without=without))}
    assert set(get_args(AlertName)) - left == set(without)


def test_every_threshold_moves_an_alert():
    before = {rule["alert"]: rule["expr"] for rule in alerts(RULES["platform"])}
    fields = {"thresholds": Thresholds, "objectives": Objectives}
    for section, model in fields.items():
        for field in model.model_fields.values():
            value = 97 if field.default in (99.9, 99.0) else 1000 if field.default == 250 else field.default + 7
            after = {rule["alert"]: rule["expr"] for rule in alerts(rendered(**{section: {field.alias: value}}))}
            records = rendered(**{section: {field.alias: value}})[0] != RULES["platform"][0]
            assert after != before or records, f"{field.alias} changes nothing"


def test_the_embedded_platform_has_no_alerts_of_what_it_cannot_say():
    names = {rule["alert"] for rule in alerts(RULES["embedded"])}
    assert set(get_args(AlertName)) - names == {"ChatClusterGatewayFull"}


def test_a_component_without_replicas_is_not_missed():
    spec = changed(SPEC, "presence", {"replicas": 0})
    (rule,) = (rule for rule in alerts(rendered(spec)) if rule["alert"] == "ChatClusterComponentDown")
    assert "presence" not in rule["expr"]
    assert "gateway" in rule["expr"]


# -- runbooks -----------------------------------------------------------------------------------------------------


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    text = (ROOT / "docs/runbooks.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    names = {rule["alert"] for groups in RULES.values() for rule in alerts(groups)}
    assert sorted(sections) == sorted(names)
    for name, body in sections.items():
        for part in ("**Means.**", "**How bad.**", "**Look.**", "**Do.**"):
            assert part in body, f"{name} has no {part}"
        assert "`" in body.partition("**Look.**")[2].partition("**Do.**")[0], f"{name} names no command"


def test_links_lead_to_the_sections():
    for rule in alerts(RULES["platform"]):
        assert rule["annotations"]["runbook_url"] == f"{BASE}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"].endswith(".")


# -- dashboards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", BOARDS)
def test_a_dashboard_is_laid_out_as_grafana_takes_it(which):
    board = BOARDS[which]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    first, *others = board["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    names = {one["name"] for one in others} | {"__rate_interval", "datasource"}
    asked = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert asked <= names
    assert {one["name"] for one in others} <= asked


@pytest.mark.parametrize("which", BOARDS)
def test_every_expression_of_a_dashboard_is_promql(tmp_path, which):
    found = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in BOARDS[which]["panels"]
        for target in panel.get("targets", ())
    ]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(found)]
    promtool("check", "rules", written(tmp_path, [{"name": "panels", "rules": rules}]), folder=tmp_path)
    assert len(found) > 15


def test_the_configmap_holds_the_dashboard():
    asked = {"dashboards": {"labels": {"grafana_dashboard": "yes"}, "annotations": {"grafana_folder": "Chat"}}}
    (found,) = observers(CLUSTER, Spec.model_validate(changed(SPEC, "observability", asked)))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Chat"}
    ((name, text),) = found["data"].items()
    board = json.loads(text)
    assert name == "chatcluster-team-main.json"
    assert board["title"] == "ChatCluster team/main"
    assert [one["current"].get("value") for one in board["templating"]["list"][1:]] == ["team", "main"]
    assert len(text) < 200_000, "a ConfigMap holds 1 MiB"
    (other,) = observers(Cluster("team", "other"), Spec.model_validate(changed(SPEC, "observability", asked)))
    ((_, second),) = other["data"].items()
    assert json.loads(second)["uid"] != board["uid"]


def test_pods_are_asked_as_said():
    asked = {"podMonitor": {"labels": {"release": "prometheus"}, "intervalSeconds": 15}}
    (found,) = observers(CLUSTER, Spec.model_validate(changed(SPEC, "observability", asked)))
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "main"
    (endpoint,) = found["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"], endpoint["scrapeTimeout"]) == ("management", "15s", "10s")
    assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["chatcluster", "component"]
    assert found["spec"]["selector"]["matchLabels"] == CLUSTER.selector()


def test_what_is_not_asked_for_is_not_rendered():
    assert observers(CLUSTER, Spec.model_validate(SPEC)) == []
