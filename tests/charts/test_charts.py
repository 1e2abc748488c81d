"""What the charts make of values, without a server: Helm 3 and 4 are built from their sources, nothing is imitated."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml

from chatcluster import __version__
from chatcluster_operator.__main__ import arguments
from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, TABLE, rules
from chatcluster_operator.render.observability.monitoring import operator_rules
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed
from helming import CHARTS, KUBERNETES, VERSIONS, Refused, run, templated

OPERATOR = "chatcluster-operator"
ROOT = CHARTS.parent
_HELMS = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def by_name(objects):
    return {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in objects}


def of(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def without_helm(thing):
    labels = {key: value for key, value in thing["metadata"].get("labels", {}).items() if key not in _HELMS}
    return {**thing, "metadata": {**thing["metadata"], "labels": labels}}


def manifest(name):
    return [one for one in yaml.safe_load_all((ROOT / "deploy" / name).read_text()) if one["kind"] != "Namespace"]


# -- charts, manifests and tables say the same ------------------------------------------------------------


@pytest.mark.parametrize("helm", VERSIONS)
def test_the_plain_manifest_is_what_the_charts_render(helm):
    rendered = templated(OPERATOR, helm=helm) + templated("chatcluster-crds", {"keep": False}, helm=helm)
    ours = by_name(without_helm(one) for one in rendered)
    plain = by_name(manifest("chatcluster-operator.yaml"))
    assert ours.keys() == plain.keys()
    definition = next(key for key in plain if key[0] == "CustomResourceDefinition")
    ours[definition]["metadata"]["labels"] = plain[definition]["metadata"]["labels"]
    assert ours == plain
    assert plain[definition] == crd()


@pytest.mark.parametrize("helm", VERSIONS)
def test_the_namespaced_manifest_is_what_the_chart_renders(helm):
    ours = by_name(without_helm(one) for one in templated(OPERATOR, {"scope": "namespaced"}, helm=helm))
    assert ours == by_name(manifest("chatcluster-operator-namespaced.yaml"))


def test_the_namespace_of_the_manifests_enforces_the_restricted_standard():
    for name in ("chatcluster-operator.yaml", "chatcluster-operator-namespaced.yaml"):
        [namespace] = of(yaml.safe_load_all((ROOT / "deploy" / name).read_text()), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_rights_are_those_of_the_table_and_no_other():
    objects = by_name(templated(OPERATOR))
    assert objects["ClusterRole", None, OPERATOR]["rules"] == rules(TABLE)
    assert objects["Role", "chatcluster-system", f"{OPERATOR}-lease"]["rules"] == rules(LEASE)
    assert len([one for one in objects if one[0] in ("Role", "ClusterRole")]) == 2
    for row in rules(TABLE) + rules(LEASE):
        assert all(row.values())
        assert "*" not in str(row)


def test_namespaced_it_has_a_role_in_each_namespace_and_nothing_beyond():
    objects = templated(OPERATOR, {"scope": "namespaced", "watchNamespaces": ["red", "blue"]})
    assert all(one["metadata"].get("namespace") for one in objects), "an object of the whole cluster"
    roles = {(one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"] for one in of(objects, "Role")}
    assert roles == {
        ("red", OPERATOR): rules(),
        ("blue", OPERATOR): rules(),
        ("chatcluster-system", f"{OPERATOR}-lease"): rules(LEASE),
    }
    for binding in of(objects, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": "chatcluster-system"}]
    [deployment] = of(objects, "Deployment")
    given = arguments(deployment["spec"]["template"]["spec"]["containers"][0]["args"])
    assert given.namespace == ["red", "blue"]


def test_versions_are_the_platforms():
    for chart in CHARTS.iterdir():
        about = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert (about["version"], about["appVersion"]) == (__version__, __version__)
        assert about["name"] == chart.name
        assert about["kubeVersion"]
        assert about["description"].endswith(".")


# -- many values ------------------------------------------------------------------------------------------

_TAINT = {"key": "chat", "operator": "Exists", "effect": "NoSchedule"}
VALUES = [
    {},
    {"replicas": 1},
    {"replicas": 3, "podDisruptionBudget": {"enabled": False}},
    {"image": {"digest": "sha256:" + "0" * 64}},
    {"image": {"repository": "registry.example:5000/x/operator", "tag": "1.2.3", "pullPolicy": "Always"}},
    {"imagePullSecrets": [{"name": "login"}], "priorityClassName": "system-cluster-critical"},
    {"nameOverride": "chat"},
    {"fullnameOverride": "chat-operator", "leaseName": "lease"},
    {"scope": "namespaced"},
    {"scope": "namespaced", "watchNamespaces": ["team-a"], "podMonitor": {"enabled": True}},
    {"logLevel": "debug", "extraEnv": [{"name": "TZ", "value": "UTC"}]},
    {"serviceAccount": {"create": False, "name": "mine"}, "rbac": {"create": False}},
    {"serviceAccount": {"create": False}},
    {"serviceAccount": {"name": "other", "annotations": {"a": "b"}}},
    {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}}},
    {"podLabels": {"team": "chat"}, "podAnnotations": {"a": "b"}, "nodeSelector": {"disk": "ssd"}},
    {"tolerations": [_TAINT], "affinity": {"nodeAffinity": {}}},
    {
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ]
    },
    {"networkPolicy": {"enabled": False}},
    {"networkPolicy": {"apiServerPorts": [16443], "metricsFrom": [{"podSelector": {"matchLabels": {"a": "b"}}}]}},
    {"podMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "prometheus"}}},
    {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}, "nameOverride": "chat"},
    {"global": {"anything": 1}},
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: json.dumps(values)[:60])
def test_what_is_rendered_holds_together(values, tmp_path):
    """Names refer to what is there, pods keep the restricted standard, whatever is asked."""
    objects = templated(OPERATOR, values, release="release-with-a-rather-long-name-for-it")
    assert objects == templated(OPERATOR, values, release="release-with-a-rather-long-name-for-it", helm="helm4")
    keys = by_name(objects)
    assert len(keys) == len(objects), "two objects of one name"
    assert all(len(one["metadata"]["name"]) <= 63 for one in objects)
    [deployment] = of(objects, "Deployment")
    spec = deployment["spec"]
    pod = spec["template"]
    labels = pod["metadata"]["labels"]
    assert spec["replicas"] == values.get("replicas", 2)
    restricted(pod["spec"])
    for selector in (
        spec["selector"],
        *(one["spec"]["selector"] for one in of(objects, "PodDisruptionBudget")),
        *(one["spec"]["selector"] for one in of(objects, "PodMonitor")),
        *(one["spec"]["podSelector"] for one in of(objects, "NetworkPolicy")),
    ):
        assert selector["matchLabels"].items() <= labels.items()
    account = pod["spec"]["serviceAccountName"]
    made = [one["metadata"]["name"] for one in of(objects, "ServiceAccount")]
    asked = values.get("serviceAccount", {})
    assert made == ([account] if asked.get("create", True) else [])
    assert "name" not in asked or account == asked["name"]
    for binding in of(objects, "RoleBinding") + of(objects, "ClusterRoleBinding"):
        role = binding["roleRef"]
        where = binding["metadata"].get("namespace") if role["kind"] == "Role" else None
        assert (role["kind"], where, role["name"]) in keys
        assert [one["name"] for one in binding["subjects"]] == [account]
    assert bool(of(objects, "PodDisruptionBudget")) == (
        spec["replicas"] > 1 and values.get("podDisruptionBudget", {}).get("enabled", True)
    )
    [container] = pod["spec"]["containers"]
    given = arguments(container["args"])  # the operator knows every option
    assert given.lease_name == values.get("leaseName", deployment["metadata"]["name"])
    assert given.log_level == values.get("logLevel", "info")
    assert given.namespace == (
        values.get("watchNamespaces", ["chatcluster-system"]) if values.get("scope") == "namespaced" else []
    )
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"management": int(given.listen.rpartition(":")[2])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert not any("managed-by" in key and value == OPERATOR for one in objects for key, value in _labels(one))


@pytest.mark.parametrize("helm", VERSIONS)
def test_the_operators_alerts_are_those_of_the_file_and_only_where_they_are_wanted(helm):
    assert of(templated(OPERATOR, helm=helm), "PrometheusRule") == []
    asked = {"enabled": True, "labels": {"release": "prometheus"}}
    [found] = of(templated(OPERATOR, {"prometheusRule": asked}, helm=helm), "PrometheusRule")
    assert found["spec"] == {"groups": operator_rules()}
    assert found["spec"] == yaml.safe_load((ROOT / "monitoring/operator-rules.yaml").read_text())
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert (found["metadata"]["namespace"], found["metadata"]["name"]) == ("chatcluster-system", OPERATOR)
    assert "{{ $labels.pod }}" in str(found["spec"]), "templates of Prometheus are none of Helm's"


def _labels(thing):
    return thing["metadata"].get("labels", {}).items()


def restricted(pod):
    """The restricted Pod Security standard, and a root that is read-only."""
    own = pod["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["runAsUser"] > 10000
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert all(set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "projected"} for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not context.get("privileged")
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(
    ("helm", "chart"), list(itertools.product(VERSIONS, sorted(one.name for one in CHARTS.iterdir())))
)
def test_lint_has_nothing_to_say(helm, chart):
    files = sorted((CHARTS / chart / "ci").glob("*-values.yaml"))
    for file in files or [CHARTS / chart / "values.yaml"]:
        told = run(helm, "lint", CHARTS / chart, "--strict", "--values", file, "--kube-version", KUBERNETES)
        assert "WARNING" not in told
        assert "1 chart(s) linted, 0 chart(s) failed" in told


def test_an_older_kubernetes_is_refused():
    with pytest.raises(Refused, match="which is incompatible with Kubernetes"):
        run("helm", "template", "x", CHARTS / OPERATOR, "--kube-version", "1.28.0")


# -- what is refused --------------------------------------------------------------------------------------

REFUSED = [
    ({"replica": 2}, "'replica' not allowed"),
    ({"image": {"name": "x"}}, "'name' not allowed"),
    ({"podMonitor": {"enable": True}}, "'enable' not allowed"),
    ({"resources": {"request": {}}}, "'request' not allowed"),
    ({"replicas": 0}, "minimum"),
    ({"replicas": "2"}, "got string, want integer"),
    ({"scope": "all"}, "value must be one of 'cluster', 'namespaced'"),
    ({"watchNamespaces": ["team"]}, "maxItems: got 1, want 0"),
    ({"scope": "namespaced", "watchNamespaces": ["Team"]}, "does not match pattern"),
    ({"scope": "namespaced", "watchNamespaces": ["team", "team"]}, "items at 0 and 1 are equal"),
    ({"image": {"digest": "sha256:12"}}, "does not match pattern"),
    ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of"),
    ({"logLevel": "loud"}, "value must be one of"),
    ({"networkPolicy": {"apiServerPorts": []}}, "minItems"),
    ({"networkPolicy": {"apiServerPorts": [70000]}}, "maximum"),
    ({"podMonitor": {"interval": "often"}}, "does not match pattern"),
    ({"prometheusRule": {"enable": True}}, "'enable' not allowed"),
    ({"prometheusRule": {"labels": {"release": 1}}}, "got number, want string"),
    ({"prometheusRule": {"labels": {"app.kubernetes.io/name": "mine"}}}, "propertyName"),
    ({"podLabels": {"app.kubernetes.io/name": "mine"}}, "propertyName"),
    ({"podAnnotations": {"a": 1}}, "got number, want string"),
    ({"imagePullSecrets": ["login"]}, "got string, want object"),
    ({"serviceAccount": {"create": "yes"}}, "got string, want boolean"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_values_that_nobody_knows_or_that_are_wrong_are_refused(values, words):
    for helm in VERSIONS:
        with pytest.raises(Refused) as told:
            templated(OPERATOR, values, helm=helm)
        assert "don't meet the specifications of the schema" in str(told.value)
        assert words in str(told.value)


# -- the definition, and one ChatCluster ------------------------------------------------------------------


def test_the_definition_stays_unless_it_is_said_otherwise():
    for values, kept in (({}, "keep"), ({"keep": False}, None), ({"annotations": {"a": "b"}}, "keep")):
        [found] = of(templated("chatcluster-crds", values), "CustomResourceDefinition")
        assert found["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == kept
        assert found["spec"] == crd()["spec"]
    assert found["metadata"]["annotations"]["a"] == "b"


def test_whoever_may_see_or_edit_a_namespace_may_do_so_with_its_chatclusters():
    roles = {one["metadata"]["name"]: one for one in of(templated("chatcluster-crds"), "ClusterRole")}
    assert set(roles) == {"chatclusters-view", "chatclusters-edit"}
    assert "*" not in str([role["rules"] for role in roles.values()])
    assert of(templated("chatcluster-crds", {"aggregatedRoles": {"create": False}}), "ClusterRole") == []


SPECS = [
    SPEC,
    changed(SPEC, "dependencies", {"embedded": {"storage": "5Gi"}}),
    changed(SPEC, "gateway.autoscaling", {"mode": "builtin", "min": 4, "max": 40}),
    changed(SPEC, "gateway.exposure", {"gatewayAPI": {"parentRefs": [{"name": "main"}], "hostnames": ["a.example"]}}),
    changed(SPEC, "gateway.tolerations", [_TAINT]),
    changed(SPEC, "gateway.affinity", {"nodeAffinity": {"anything": [{"goes": "here"}]}}),
    changed(SPEC, "gateway.podLabels", {"a": "b"}),
    changed(SPEC, "settings", {"router": {"sends_per_second": 50.0}, "push": {"enabled": True}}),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec)[-50:])
def test_a_chatcluster_is_rendered_as_it_is_given_and_nothing_else(spec):
    [found] = templated("chatcluster", {"spec": spec}, release="main", namespace="team")
    assert (found["apiVersion"], found["kind"]) == ("chatcluster.dev/v1", "ChatCluster")
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ("main", "team")
    assert found["spec"] == spec
    Spec.model_validate(found["spec"])


def test_its_head_is_as_asked():
    values = {"spec": SPEC, "name": "blue", "labels": {"team": "chat"}, "annotations": {"a": "b"}, "keep": True}
    [found] = templated("chatcluster", values, release="main")
    assert found["metadata"]["name"] == "blue"
    assert found["metadata"]["labels"]["team"] == "chat"
    assert found["metadata"]["annotations"] == {"a": "b", "helm.sh/resource-policy": "keep"}


REFUSED_SPECS = [
    ({}, "missing properties 'auth', 'dependencies'"),
    ({"spec": {}, "gateway": {}}, "'gateway' not allowed"),
    ({"spec": changed(SPEC, "gatway", {})}, "'gatway' not allowed"),
    ({"spec": changed(SPEC, "gateway.replica", 3)}, "'replica' not allowed"),
    ({"spec": changed(SPEC, "gateway.replicas", "3")}, "got string, want integer"),
    ({"spec": changed(SPEC, "gateway.replicas", -1)}, "minimum"),
    ({"spec": changed(SPEC, "gateway.autoscaling", {"mode": "magic"})}, "value must be one of"),
    ({"spec": changed(SPEC, "dependencies.redis.password", "secret")}, "'password' not allowed"),
    ({"spec": changed(SPEC, "settings", {"ruter": {}})}, "'ruter' not allowed"),
    ({"spec": changed(SPEC, "auth", {"secretRef": {"name": "x"}})}, "missing property 'key'"),
    ({"spec": SPEC, "name": "Main"}, "does not match pattern"),
    ({"spec": SPEC, "name": "x" * 41}, "maxLength"),
    ({"spec": SPEC, "labels": {"app.kubernetes.io/managed-by": OPERATOR}}, "propertyName"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED_SPECS, ids=lambda value: str(value)[-50:])
def test_fields_that_the_definition_does_not_know_are_refused(values, words):
    with pytest.raises(Refused) as told:
        templated("chatcluster", values)
    assert words in str(told.value)
