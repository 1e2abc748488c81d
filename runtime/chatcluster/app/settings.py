"""Settings: read once at the start from the environment and a TOML file, checked whole, passed down as structs.

Each role declares its settings as a ``msgspec.Struct`` in its own room. Here they become sections:
``CHATCLUSTER_GATEWAY__SEND_BUFFER_BYTES=262144`` or ``[gateway] send_buffer_bytes = 262144``. The environment
goes before the file. An unknown key, a wrong value or a missing one stops the start with its name, its
value and what is allowed.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

PREFIX = "CHATCLUSTER_"
OTHERS = ("CHATCLUSTER_API_KEY", "CHATCLUSTER_CACHE", "CHATCLUSTER_LONG", "CHATCLUSTER_TEST_")
"""Names and beginnings of names that are no settings: of the command line, of the stack and of the tests."""
S = TypeVar("S", bound=msgspec.Struct)


class BadSettings(Exception):
    """Settings that the platform does not start with. The message names key, value and what is allowed."""


def read_sections(config: Path | None, environ: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Raw values by section and key; the environment wins over the file. Raises ``BadSettings``."""
    sections: dict[str, dict[str, Any]] = {}
    if config is not None:
        try:
            document = tomllib.loads(config.read_text())
        except FileNotFoundError:
            raise BadSettings(f"the settings file {config} does not exist") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"the settings file {config} is not TOML: {error}") from None
        for section, values in document.items():
            if not isinstance(values, dict):
                raise BadSettings(f"{section} = {values!r} in {config}: settings stand in sections, such as [gateway]")
            sections[section] = dict(values)
    for name, value in (os.environ if environ is None else environ).items():
        if not name.startswith(PREFIX) or name.startswith(OTHERS):
            continue
        section, separator, key = name.removeprefix(PREFIX).lower().partition("__")
        if not separator or not key:
            raise BadSettings(f"{name}={value!r}: the form is {PREFIX}SECTION__KEY, such as {PREFIX}LOG__LEVEL")
        sections.setdefault(section, {})[key] = value
    return sections


def convert(section: str, values: Mapping[str, Any], struct: type[S]) -> S:
    """One section as its struct. Text is converted where the field is a number, a bool or a list (comma-separated)."""
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    ready: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise BadSettings(f"{section}.{key} = {value!r}: no such setting; allowed: {', '.join(sorted(fields))}")
        ready[key] = _from_text(value, fields[key].type)
    for field in fields.values():
        if field.required and field.name not in ready:
            raise BadSettings(f"{section}.{field.name} is missing: {_allowed(field.type)}")
    for key, value in ready.items():
        try:
            msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            allowed = str(error).partition(" - at")[0]
            raise BadSettings(f"{section}.{key} = {values[key]!r}: {allowed}") from None
        if not _sensible(value, fields[key].type):
            raise BadSettings(f"{section}.{key} = {values[key]!r}: allowed: a number from 0 on, and an end to it")
    try:
        return msgspec.convert(ready, struct, strict=False)
    except msgspec.ValidationError as error:
        raise BadSettings(f"[{section}]: {error}") from None


def _from_text(value: Any, wanted: Any) -> Any:
    kinds = _kinds(wanted)
    if isinstance(value, str) and not kinds.isdisjoint(_LISTS) and "StrType" not in kinds:
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _sensible(value: Any, wanted: Any) -> bool:
    """Whether a number is one that a size, a rate or a time can have; ``nan`` would make every comparison false."""
    if value is None or not _kinds(wanted) <= {"IntType", "FloatType", "NoneType"}:
        return True
    return 0 <= msgspec.convert(value, float, strict=False) < math.inf


def _kinds(wanted: Any) -> set[str]:
    """What a field may be: msgspec's names, of a union all of them."""
    info = msgspec.inspect.type_info(wanted)
    return {type(one).__name__ for one in (info.types if isinstance(info, msgspec.inspect.UnionType) else (info,))}


_LISTS = {"ListType", "TupleType", "VarTupleType", "SetType", "FrozenSetType"}


def _allowed(wanted: Any) -> str:
    return f"a {msgspec.inspect.type_info(wanted).__class__.__name__.removesuffix('Type').lower()}"
