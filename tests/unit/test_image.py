"""What the image of the tests takes from the Dockerfile, and the archive that it makes."""

from __future__ import annotations

import hashlib
import json
import tarfile

import pytest

from chatcluster_operator.names import LINK, MANAGEMENT, SOCKETS
from chatcluster_operator.render.pods import USER
from image import OPERATOR, PREFIX, ROOT, BadDockerfile, code, settings, write


def test_the_dockerfile_is_what_the_operator_expects():
    config = settings((ROOT / "Dockerfile").read_text())
    assert config["Entrypoint"] == ["chatcluster"], "pods give arguments and no command"
    assert config["User"] == f"{USER}:{USER}"
    assert set(config["ExposedPorts"]) == {f"{port}/tcp" for port in (SOCKETS, MANAGEMENT, LINK)}
    assert f"PATH=/{PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in config["Env"]
    assert "PYTHONDONTWRITEBYTECODE=1" in config["Env"], "the root is read-only"


def test_the_operators_stage_is_what_its_deployment_expects():
    config = settings((ROOT / "Dockerfile").read_text(), OPERATOR)
    assert config["Entrypoint"] == ["chatcluster-operator"], "its pod gives arguments and no command"
    assert config["User"] == "10001:10001"
    assert config["ExposedPorts"] == {"8082/tcp": {}}
    assert "HOME=/" in config["Env"], "its client asks for one"
    with pytest.raises(BadDockerfile, match="no stage other"):
        settings((ROOT / "Dockerfile").read_text(), "other")


def test_what_it_cannot_follow_is_refused():
    for line in ("COPY --from=build /elsewhere /opt", "RUN true", "HEALTHCHECK NONE"):
        with pytest.raises(BadDockerfile, match=line.partition(" ")[0]):
            settings(f"FROM a AS build\nRUN true\nFROM b\n{line}\n")
    with pytest.raises(BadDockerfile, match="before FROM"):
        settings("USER 1\n")


def test_an_archive_is_an_oci_layout_of_its_layers(tmp_path):
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    write(tmp_path / "out.tar", ["a:1", "a:2"], [layer], {"User": "1:1"})
    with tarfile.open(tmp_path / "out.tar") as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar.getmembers()}
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    first, second = json.loads(files["index.json"])["manifests"]
    assert [one["annotations"]["io.containerd.image.name"] for one in (first, second)] == ["a:1", "a:2"]
    assert first["digest"] == second["digest"]
    manifest = json.loads(files[f"blobs/{first['digest'].replace(':', '/')}"])
    for one in (first, manifest["config"], *manifest["layers"]):
        content = files[f"blobs/{one['digest'].replace(':', '/')}"]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one["size"], one["digest"].partition(":")[2])
    config = json.loads(files[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"]
    assert config["config"] == {"User": "1:1"}


def test_our_layer_has_the_commands_and_their_code(tmp_path):
    code("3.11.2", tmp_path / "code.tar")
    with tarfile.open(tmp_path / "code.tar") as tar:
        names = set(tar.getnames())
        members = tar.getmembers()
        start = tar.extractfile(f"{PREFIX}/bin/chatcluster").read().decode()
    assert f"{PREFIX}/lib/python3.11/site-packages/chatcluster/app/cli.py" in names
    assert f"{PREFIX}/lib/python3.11/site-packages/chatcluster_operator/__main__.py" in names
    assert start.startswith(f"#!/{PREFIX}/bin/python\n")
    assert "from chatcluster.app.cli import main" in start
    assert {(one.uid, one.gid) for one in members} == {(0, 0)}
