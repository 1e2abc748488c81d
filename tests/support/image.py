"""Our two images without a container engine: OCI archives made of files, laid out as ``Dockerfile`` says.

Three layers each: Debian with its Python (mmdebstrap), the locked packages, our code as built into a wheel. User,
entry point, environment and ports are read from the Dockerfile's stages, so the two cannot disagree about them; the
base is Debian's Python instead of python:3.12-slim. The first two layers are kept in the cache.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import hashlib
import io
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prebuilt

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIX = "opt/chatcluster"
"""Where the virtual environment is in the image."""
SUITE = "bookworm"
_PACKAGES = ("python3", "dash", "coreutils", "ca-certificates")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_UNUSED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
PAUSE = "chatcluster.test/pause:1"
"""What holds a pod's namespaces: the same base, and a process that does nothing."""


class BadDockerfile(Exception):
    """The Dockerfile says something that this cannot follow."""


def cache() -> Path:
    """Where layers are kept."""
    return prebuilt.cache() / "image"


# -- what the Dockerfile says ---------------------------------------------------------------------------------


RUNTIME, OPERATOR = "", "operator"
"""Stages of the Dockerfile by name: the last one, and the operator's."""
LOCKS = {RUNTIME: "platform", OPERATOR: "operator"}
"""Which packages each has."""


def stages(text: str) -> list[list[tuple[str, str]]]:
    """Instructions of each stage, in order, as (NAME, rest)."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for line in lines:
        name, _, rest = line.strip().partition(" ")
        if name.upper() == "FROM":
            found.append([])
        if not found:
            raise BadDockerfile(f"{name} before FROM")
        found[-1].append((name.upper(), rest.strip()))
    return found


def stage_of(text: str, target: str) -> list[tuple[str, str]]:
    """The instructions of a stage."""
    found = stages(text)
    if not target:
        return found[-1]
    named = {one[0][1].rpartition(" ")[2]: one for one in found if " AS " in one[0][1]}
    if target not in named:
        raise BadDockerfile(f"no stage {target}")
    return named[target]


def settings(text: str, target: str = RUNTIME) -> dict[str, Any]:
    """The ``config`` of the image that a stage makes."""
    before = f"{target}-build" if target else "build"
    config: dict[str, Any] = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    for name, rest in stage_of(text, target):
        match name:
            case "FROM":
                pass
            case "COPY":
                if rest.split() != [f"--from={before}", f"/{PREFIX}", f"/{PREFIX}"]:
                    raise BadDockerfile(f"COPY {rest}: only /{PREFIX} of the stage {before} is known here")
            case "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    known = next((one for one in config["Env"] if one.startswith(f"{key}=")), f"{key}=")
                    config["Env"] = [one for one in config["Env"] if one != known]
                    config["Env"].append(f"{key}={value.replace(f'${key}', known.partition('=')[2])}")
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "EXPOSE":
                config["ExposedPorts"] = {f"{port}/tcp": {} for port in rest.split()}
            case "ENTRYPOINT" | "CMD":
                config["Entrypoint" if name == "ENTRYPOINT" else "Cmd"] = json.loads(rest)
            case _:
                raise BadDockerfile(f"{name}: not known here")
    return config


# -- layers ---------------------------------------------------------------------------------------------------


def base() -> Path:
    """Debian with Python, as a tar without device nodes."""
    return _kept(f"base-{_hash(SUITE, *_PACKAGES, *_UNUSED)}", _debian)


def _debian(target: Path) -> None:
    whole = target.with_suffix(".whole.tar")  # mmdebstrap goes by the ending
    try:
        subprocess.run(
            [
                *("mmdebstrap", "-q", "--variant=extract", f"--include={','.join(_PACKAGES)}"),
                *(f"--dpkgopt=path-exclude={one}" for one in _UNUSED),
                *(SUITE, str(whole)),
            ],
            check=True,
            stdout=sys.stderr,
        )
        with tarfile.open(whole) as source, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
            for member in source:
                if not member.isdev():
                    layer.addfile(member, source.extractfile(member) if member.isreg() else None)
    finally:
        whole.unlink(missing_ok=True)


def python_of(layer: Path) -> str:
    """Which Python a base has, as ``3.11.2``: it is asked, once."""
    told = layer.with_suffix(".python")
    if not told.exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["tar", "-xf", str(layer), "-C", folder], check=True)
            ask = "import platform; print(platform.python_version())"
            asked = ["chroot", folder, "/usr/bin/python3", "-S", "-c", ask]
            told.write_text(subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    return told.read_text()


def packages(version: str, target: str = RUNTIME) -> Path:
    """The locked packages, with hashes checked, in a virtual environment for this Python."""
    locked = ROOT / f"requirements/{LOCKS[target]}.txt"
    return _kept(f"packages-{_hash(version, locked.read_text(), platform.machine())}", _environment(version, locked))


def _environment(version: str, locked: Path) -> Callable[[Path], None]:
    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            site = Path(folder) / _site(version)
            # uv, because pip takes the markers of a lock for those of the Python that it runs on.
            uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:"]
            chosen = ["--python-version", version, "--target", str(site), "--link-mode", "copy"]
            subprocess.run([*uv, *chosen, "-r", str(locked)], check=True, stdout=sys.stderr)
            shutil.rmtree(site / "bin", ignore_errors=True)  # for the Python that ran uv
            _compiled(site, Path(folder), version)
            bin_ = Path(folder) / PREFIX / "bin"
            bin_.mkdir()
            for name in ("python", "python3"):
                (bin_ / name).symlink_to("/usr/bin/python3")
            (Path(folder) / PREFIX / "pyvenv.cfg").write_text(
                f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
            )
            _tar(Path(folder), target)

    return make


def _site(version: str) -> str:
    return f"{PREFIX}/lib/python{version.rpartition('.')[0]}/site-packages"


def _compiled(site: Path, top: Path, version: str) -> None:
    """Nothing is written in a pod: without this each start compiles all of it."""
    if version.rpartition(".")[0] == f"{sys.version_info.major}.{sys.version_info.minor}":
        compileall.compile_dir(site, quiet=2, stripdir=str(top), prependdir="/", workers=1)


def code(version: str, target: Path) -> None:
    """Our wheel, unpacked, with its commands."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            check=True, cwd=ROOT, capture_output=True,
        )  # fmt: skip
        [wheel] = Path(folder).glob("*.whl")
        tree = Path(folder) / "tree"
        site = tree / _site(version)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        bin_ = tree / PREFIX / "bin"
        bin_.mkdir()
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        for name, where in scripts.items():
            module, _, function = where.partition(":")
            script = f"#!/{PREFIX}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            (bin_ / name).write_text(script)
            (bin_ / name).chmod(0o755)
        _compiled(site, tree, version)
        _tar(tree, target)


def _tar(folder: Path, target: Path) -> None:
    def ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for one in sorted(folder.iterdir()):
            layer.add(one, arcname=one.name, filter=ours)


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """A layer of the cache, made the first time; a second caller waits for the first."""
    cache().mkdir(parents=True, exist_ok=True)
    found = cache() / f"{name}.tar"
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            new = found.with_suffix(".new")
            make(new)
            new.replace(found)
    return found


def _hash(*what: str) -> str:
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]


# -- the image ------------------------------------------------------------------------------------------------


def write(target: Path, names: Sequence[str], layers: Sequence[Path], config: dict[str, Any]) -> None:
    """An OCI image layout as a tar, as ``ctr images import`` takes it. All ``names`` are of the same content."""
    blobs: dict[str, bytes | Path] = {}

    def blob(content: bytes | Path, kind: str) -> dict[str, Any]:
        digest, size = _digest(content)
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}

    described = [blob(layer, "layer.v1.tar") for layer in layers]
    system = {"architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux"}
    roots = {"type": "layers", "diff_ids": [one["digest"] for one in described]}
    made = json.dumps({**system, "config": config, "rootfs": roots}).encode()
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    manifest |= {"config": blob(made, "config.v1+json"), "layers": described}
    head = blob(json.dumps(manifest).encode(), "manifest.v1+json") | {"platform": system}
    index = {"schemaVersion": 2, "manifests": [head | {"annotations": {_NAME: name}} for name in names]}
    with tarfile.open(target, "w") as tar:
        _put(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _put(tar, "index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            _put(tar, f"blobs/sha256/{digest}", content)


_NAME = "io.containerd.image.name"


def _digest(content: bytes | Path) -> tuple[str, int]:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size


def _put(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    if isinstance(content, Path):
        tar.add(content, arcname=name)
        return
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@contextmanager
def images(*names: str, operator: Sequence[str] = ()) -> Iterator[list[Path]]:
    """Archives of ``PAUSE``, and of the runtime and the operator under these names, for the time of the block."""
    bottom = base()
    version = python_of(bottom)
    dockerfile = (ROOT / "Dockerfile").read_text()
    with tempfile.TemporaryDirectory() as folder:
        own, pause = Path(folder) / "code.tar", Path(folder) / "pause.tar"
        code(version, own)
        write(pause, [PAUSE], [bottom], {"Entrypoint": ["/bin/sleep", "infinity"], "User": "65535:65535"})
        made = [pause]
        for target, called in ((RUNTIME, names), (OPERATOR, operator)):
            if called:
                archive = Path(folder) / f"{target or 'runtime'}.tar"
                write(archive, called, [bottom, packages(version, target), own], settings(dockerfile, target))
                made.append(archive)
        yield made


def main() -> None:
    """``image.py OUT.tar NAME:TAG...``: the runtime's image; with no arguments what the cache keeps is made."""
    parser = argparse.ArgumentParser(description="The runtime's image as an OCI archive.")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    if given.out is None:
        for target in LOCKS:
            packages(python_of(base()), target)
        return
    with images(*(given.names or ["chatcluster:dev"])) as [_, runtime]:
        shutil.copy(runtime, given.out)


if __name__ == "__main__":
    main()
