"""The OLM bundle says what the manifests say, and the Operator Framework's own library takes it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from chatcluster import __version__
from chatcluster_operator.__main__ import arguments
from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from chatcluster_operator.spec import Spec
from prebuilt import ROOT, tool

OLM = ROOT / "deploy/olm"
MANIFESTS = OLM / "bundle/manifests"
CSV = MANIFESTS / "chatcluster-operator.clusterserviceversion.yaml"


@pytest.fixture
def csv():
    return yaml.safe_load(CSV.read_text())


def verify(folder):
    command = [tool("operator-verify"), "manifests", "--operatorhub_validate", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if "level=warning" not in line]


def test_the_frameworks_library_has_nothing_to_say():
    assert verify(OLM / "bundle") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body["spec"].pop("version"), "csv.Spec.Version must be set"),
        (lambda body: body["spec"].pop("customresourcedefinitions"), "but not defined in CSV"),
        (lambda body: body["metadata"]["annotations"].update({"alm-examples": "["}), "invalid example"),
        (lambda body: body["spec"]["install"]["spec"].update(deployments="none"), "cannot unmarshal"),
    ],
)
def test_it_would_say_so(tmp_path, csv, change, words):
    shutil.copytree(OLM / "bundle", tmp_path / "bundle")
    change(csv)
    (tmp_path / "bundle/manifests" / CSV.name).write_text(yaml.safe_dump(csv))
    assert words in str(verify(tmp_path / "bundle"))


def test_it_asks_for_the_rights_of_the_table_and_none_in_the_whole_cluster(csv):
    install = csv["spec"]["install"]["spec"]
    assert [one["rules"] for one in install["permissions"]] == [rules() + rules(LEASE)]
    assert "clusterPermissions" not in install


def test_its_deployment_is_the_manifests_but_for_the_namespaces(csv, monkeypatch):
    [ours] = csv["spec"]["install"]["spec"]["deployments"]
    plain = list(yaml.safe_load_all((ROOT / "deploy/chatcluster-operator.yaml").read_text()))
    [wanted] = [one["spec"] for one in plain if one["kind"] == "Deployment"]
    container = ours["spec"]["template"]["spec"]["containers"][0]
    where = container["env"].pop()
    assert ours["spec"] == wanted
    assert where["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.annotations['olm.targetNamespaces']"
    # OLM writes nothing for all namespaces, else their names with commas.
    for value, namespaces in (("", []), ("team", ["team"]), ("red,blue", ["red", "blue"])):
        monkeypatch.setenv(where["name"], value)
        assert arguments(container["args"]).namespace == namespaces


def test_definition_example_and_versions(csv):
    assert yaml.safe_load((MANIFESTS / "chatclusters.crd.yaml").read_text()) == crd()
    for example in json.loads(csv["metadata"]["annotations"]["alm-examples"]):
        Spec.model_validate(example["spec"])
    assert csv["metadata"]["name"] == f"chatcluster-operator.v{__version__}"
    assert csv["spec"]["version"] == __version__
    assert {one["type"] for one in csv["spec"]["installModes"] if one["supported"]} == {
        *("OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces")
    }


def test_labels_of_image_and_metadata_are_the_same():
    annotations = yaml.safe_load((OLM / "bundle/metadata/annotations.yaml").read_text())["annotations"]
    text = (OLM / "bundle.Dockerfile").read_text()
    labels = dict(line.removeprefix("LABEL ").split("=", 1) for line in text.splitlines() if line.startswith("LABEL "))
    assert labels == annotations
    for line in text.splitlines():
        if line.startswith("COPY "):
            assert (OLM / line.split()[1]).is_dir()
