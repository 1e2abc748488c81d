"""``operator/`` is a source root: nothing in it may shadow the standard library's ``operator``."""

from __future__ import annotations

import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_import_operator_is_the_standard_librarys() -> None:
    code = "import operator, collections; print(operator.itemgetter(1)('ab'), operator.__file__)"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert printed.startswith("b ")
    assert str(ROOT) not in printed
    assert sys.modules["operator"] is operator


def test_source_roots_hold_no_init_tests_or_conftest() -> None:
    for root in ("operator", "runtime"):
        assert not (ROOT / root / "__init__.py").exists()
        assert not [*(ROOT / root).rglob("test_*.py"), *(ROOT / root).rglob("conftest.py")]
    assert not list((ROOT / "tests").rglob("__init__.py"))
