"""The base install is the client alone, and the locks hold hashes and no URLs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_CLIENT_ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import chatcluster.client
server = ("chatcluster.services", "chatcluster.backends", "chatcluster.app")
assert not [name for name in sys.modules if name.startswith(server)]
print("imported", chatcluster.client.Client.__name__)
"""


def test_the_client_needs_the_base_install_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[>=\[ ]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert names == {"msgspec", "websockets"}
    refused = {"aiohttp", "click", "prometheus_client", "prompt_toolkit", "pydantic", "jwt", "rich", "uvloop", "kopf"}
    code = _CLIENT_ALONE.format(refused=refused)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "imported Client\n", done.stderr


_OPERATOR_ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import chatcluster_operator.__main__
assert not [name for name in sys.modules if name.split(".")[0] == "chatcluster"]
print("imported", chatcluster_operator.__main__.main.__name__)
"""


def test_the_operator_needs_its_own_packages_alone() -> None:
    """Its image holds those of ``requirements/operator.txt``."""
    locked = {name: _locked(name) for name in ("platform", "operator")}
    assert {"kopf", "kubernetes"} <= locked["operator"]
    foreign = locked["platform"] - locked["operator"]
    assert {"confluent-kafka", "cassandra-driver", "redis", "uvloop", "pyjwt", "cryptography"} <= foreign
    refused = {"confluent_kafka", "cassandra", "redis", "uvloop", "jwt", "cryptography", "rich", "prompt_toolkit"}
    code = _OPERATOR_ALONE.format(refused=refused)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "imported main\n", done.stderr


def _locked(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-zA-Z0-9._-]+)==", text, flags=re.MULTILINE))


def test_what_the_operators_image_holds_is_what_is_tested() -> None:
    def pins(name: str) -> set[tuple[str, str]]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        return set(re.findall(r"^([a-zA-Z0-9._-]+)==([^ ;]+)", text, flags=re.MULTILINE))

    assert pins("operator") <= pins("dev")


@pytest.mark.parametrize("name", ["platform", "operator", "dev"])
def test_locks_hold_hashes_and_no_urls(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    packages = re.findall(r"^([a-zA-Z0-9._-]+)==", text, flags=re.MULTILINE)

    assert len(packages) > 20
    assert text.count("--hash=sha256:") > len(packages)
    assert "://" not in text
    assert all("--hash" in block for block in re.split(r"^(?=[a-zA-Z])", text, flags=re.MULTILINE)[1:])


def test_the_wheel_holds_both_packages_and_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert {"chatcluster/ports.py", "chatcluster_operator/__init__.py", "chatcluster/app/web/index.html"} <= set(names)
    assert "chatcluster/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "operator/", "runtime/"))]
