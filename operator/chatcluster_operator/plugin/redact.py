"""Takes secrets out of what is handed to others. Pure.

In three steps: everything is read first, and what stands where secrets stand (``password: …``, ``Bearer …``, a user
and password in an address) is remembered, beside the values of Secrets that were read for this alone; then what was
remembered is removed wherever else it stands, also as base64, hexadecimal, percent-encoded or as an escaped string;
and what looks like a secret is removed though nobody told. Rather a word too many than one too few.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

GONE = "▒▒▒▒▒▒"
"""Stands where something was. Of no character of which secrets are made."""
SHORT = 6
"""Secrets below so many characters are removed as whole words only: as parts of words they would be everywhere."""
MOST = 2000
"""Different secrets that are remembered from texts: each is looked for everywhere."""

_SENSITIVE = re.compile(
    r"pass(?:word|wd|phrase|code)?s?$|pwd$|secrets?$|tokens?$|credentials?$|api[-_.]?keys?$|private[-_.]?keys?$|"
    r"signing[-_.]?keys?$|access[-_.]?keys?(?:[-_.]?id)?$|account[-_.]?keys?$|shared[-_.]?keys?$|"
    r"client[-_.]?secrets?$|authorization$|cookies?$|bearer$|dsn$|connection[-_.]?strings?$|jaas[-_.]?config$|"
    r"session[-_.]?id$|jwt$|otp$|pin$|salt$|webhook[-_.]?url$",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(?:ref|name|names|hash|file|path|mount|volume|version|class|key_?ref)$", re.IGNORECASE)
"""Ends of keys that name where a secret is."""
_HARMLESS = re.compile(
    r"(?:|bearer|basic|digest|negotiate|true|false|null|none|nil|yes|no|on|off|<redacted>|\*+|-?\d{1,4})", re.IGNORECASE
)
_POINTERS = frozenset(
    {"name", "key", "secretName", "optional", "defaultMode", "namespace", "kind", "items", "mode", "path"}
)
"""Fields of an object that points to a Secret."""
_DROPPED = frozenset({"managedFields", "kubectl.kubernetes.io/last-applied-configuration"})

_WORD = r"[A-Za-z0-9_.\-]*"
_NAMED = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|api[-_.]?key|private[-_.]?key|signing[-_.]?key|"
    r"access[-_.]?key(?:[-_.]?id)?|account[-_.]?key|shared[-_.]?key|authorization|cookie|dsn|connection[-_.]?string|"
    r"jaas[-_.]?config|session[-_.]?id|jwt)s?"
)
_PAIR = re.compile(
    rf"""(?P<key>\\*["']?{_WORD}{_NAMED}\\*["']?\s*(?:=>|[=:])\s*|--{_WORD}{_NAMED}[=\s]\s*)"""
    rf"""(?P<value>(?P<q>\\*["'])(?:(?!(?P=q)).)+(?P=q)|[^\s,;&"'}}\])]+)""",
    re.IGNORECASE,
)
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){0,3}"),
    re.compile(r"(?<=bearer )\s*[^\s\"',;]+|(?<=basic )\s*[A-Za-z0-9+/=_-]{6,}", re.IGNORECASE),
    re.compile(r"(?<=cookie: )[^\r\n\"]+", re.IGNORECASE),
    re.compile(r"(?<=://)[^\s/@\"']*:[^\s/\"']*(?=@)"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"(?<![A-Za-z0-9:@])[0-9a-fA-F]{64,}(?![A-Za-z0-9])"),
)


class Redactor:
    """``learn`` from everything, then ``clean`` everything.

    ``values``: secrets that are known; ``keep``: names that are no secrets, even where secrets stand.
    """

    def __init__(self, values: Iterable[str] = (), keep: Iterable[str] = ()) -> None:
        self._known: dict[str, _Secret] = {}
        self._keep: frozenset[str] = frozenset()
        self._sorted: list[_Secret] = []
        self.removed = 0
        self.forgotten = 0
        """Of texts: secrets beyond ``MOST``, that are removed where they were said to be secret alone."""
        for value in values:
            self._remember(value)
        self._keep = frozenset(keep) - self._known.keys()

    @property
    def known(self) -> int:
        """How many different secrets are removed wherever they stand."""
        return len(self._known)

    # -- learning -----------------------------------------------------------------------------------------

    def learn(self, what: Any) -> None:
        """From an object of the API, or a text."""
        if isinstance(what, str):
            self._learn_text(what)
            return
        for _, value, sensitive in _leaves(what):
            if sensitive:
                self._remember(value)
            if isinstance(value, str):
                self._learn_text(value)

    def _learn_text(self, text: str) -> None:
        for found in _PAIR.finditer(text):
            self._remember(found["value"].strip("\\\"'"), of_text=True)
        for pattern in _PATTERNS:
            for match in pattern.finditer(text):
                self._remember(match[0], of_text=True)
                for text_of in (match[0], _decoded(match[0])):
                    _, colon, password = text_of.partition(":")
                    if colon and "\n" not in text_of:
                        self._remember(password, of_text=True)  # of user:password

    def _remember(self, value: Any, *, of_text: bool = False) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        for one in {text, text.strip(), *(line.strip() for line in text.splitlines() if len(line.strip()) >= 16)}:
            if one and GONE not in one and one not in self._keep and not _HARMLESS.fullmatch(one):
                if one in self._known:
                    continue
                if of_text and len(self._known) >= MOST:
                    self.forgotten += 1
                    continue
                self._known[one] = _Secret(one)

    # -- cleaning -----------------------------------------------------------------------------------------

    def clean(self, what: Any) -> Any:
        """The same without secrets; an object stays one of the same form."""
        if isinstance(what, str):
            return self.text(what)
        self.text("")
        whole = json.dumps(what, ensure_ascii=False)
        active = [one for one in self._sorted if one.removed(whole)[1]]
        return self._clean(what, active, sensitive=False)

    def _clean(self, what: Any, active: list[_Secret], *, sensitive: bool) -> Any:
        if isinstance(what, Mapping):
            found = {}
            named = _named_value(what)
            for key, value in what.items():
                if key in _DROPPED:
                    continue
                found[self.text(key, active)] = self._clean(
                    value, active, sensitive=_inherits(key, value, what, sensitive) or key == named
                )
            return found
        if isinstance(what, list):
            follows = _follows(what)
            return [self._clean(one, active, sensitive=sensitive or at in follows) for at, one in enumerate(what)]
        if what is None or isinstance(what, bool):
            return what
        if sensitive and not _HARMLESS.fullmatch(str(what)) and what not in self._keep:
            self.removed += 1
            return GONE
        if isinstance(what, str):
            return self.text(what, active)
        return what if self.text(str(what), active) == str(what) else GONE

    def text(self, text: str, active: list[_Secret] | None = None) -> str:
        """A text without secrets. ``active``: those that may be in it; None: any."""
        if len(self._sorted) != len(self._known):
            self._sorted = sorted(self._known.values(), key=lambda one: -len(one.text))
        for pattern in _PATTERNS:
            text = pattern.sub(self._gone, text)
        text = _PAIR.sub(self._pair, text)
        # What is left and right of something that was removed may be one again.
        for _ in range(100):
            before = text
            for secret in self._sorted if active is None else active:
                text, count = secret.removed(text)
                self.removed += count
            if text == before:
                break
        return text

    def _pair(self, match: re.Match[str]) -> str:
        value = match["value"]
        bare = value.strip("\\\"'")
        if _HARMLESS.fullmatch(bare) or bare == GONE or bare in self._keep:
            return match[0]
        self.removed += 1
        # Escaped quotes stay, so that JSON in a text stays JSON.
        return f"{match['key']}{match['q'] or ''}{GONE}{match['q'] or ''}"

    def _gone(self, match: re.Match[str]) -> str:
        if match[0].strip() == GONE:
            return match[0]
        self.removed += 1
        return GONE


def _decoded(text: str) -> str:
    """Of ``Basic dXNlcjpwYXNzd29yZA==``."""
    try:
        return base64.b64decode(text.strip(), validate=True).decode()
    except ValueError:
        return ""


def sensitive_key(key: str) -> bool:
    """Whether secrets stand under such a key."""
    return bool(_SENSITIVE.search(key.rstrip("0123456789_-."))) and not _REFERENCE.search(key)


def _inherits(key: str, value: Any, of: Mapping[str, Any], sensitive: bool) -> bool:
    """Whether what stands under a key of an object is secret."""
    if sensitive_key(key):
        # secret: {secretName: x} and secretKeyRef say where, not what; token: {…} says what.
        return not (isinstance(value, Mapping) and set(value) <= _POINTERS)
    return sensitive and not _REFERENCE.search(key)


def _named_value(what: Mapping[str, Any]) -> str:
    """``value`` of ``{name: PASSWORD, value: …}``."""
    name = what.get("name")
    return "value" if isinstance(name, str) and "value" in what and sensitive_key(name) else ""


def _follows(what: list[Any]) -> set[int]:
    """Of arguments those after ``--password``."""
    return {
        at + 1
        for at, one in enumerate(what)
        if isinstance(one, str) and one.startswith("-") and "=" not in one and " " not in one and sensitive_key(one)
    }


def _leaves(what: Any, key: str = "", *, sensitive: bool = False) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(what, Mapping):
        named = _named_value(what)
        for name, value in what.items():
            yield from _leaves(value, name, sensitive=_inherits(name, value, what, sensitive) or name == named)
    elif isinstance(what, list):
        follows = _follows(what)
        for at, one in enumerate(what):
            yield from _leaves(one, key, sensitive=sensitive or at in follows)
    elif what is not None and not isinstance(what, bool):
        yield key, what, sensitive


class _Secret:
    """One that is known, and how to find it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._literal = sorted(forms_of(text), key=lambda form: (-len(form), form))
        pattern = "".join(map(_written, text))
        if len(text) < SHORT:
            pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        self._pattern = re.compile(pattern)
        self._run = max(re.findall(r"[A-Za-z0-9]*", text), key=len)
        """What stands in every way to write it: where it is missing there is nothing to find."""

    def removed(self, text: str) -> tuple[str, int]:
        """A text without it, and from how many places it was taken."""
        count = 0
        if self._run in text:
            text, count = self._pattern.subn(GONE, text)
        for form in self._literal:
            if form in text:
                count += text.count(form)
                text = text.replace(form, GONE)
        return text, count


def _written(char: str) -> str:
    """A pattern of all ways in which a character is written: as itself, percent-encoded, escaped in JSON, in HTML."""
    if char.isascii() and char.isalnum():
        return char
    percent = "".join(f"%{byte:02X}" for byte in char.encode())
    units = [f"u{ord(char):04x}"] if char.isascii() else re.findall(r"u[0-9a-f]{4}", json.dumps(char))
    code = "".join(rf"\\{{1,7}}{unit}" for unit in units)
    ways = [rf"\\{{0,7}}{re.escape(char)}", rf"(?i:{percent})", rf"(?i:{code})"]
    if char in _ESCAPES:
        ways.append(rf"\\{{1,7}}{_ESCAPES[char]}")
    if char == " ":
        ways.append(r"\+")
    if char in _ENTITIES:
        ways.append(rf"&(?:{_ENTITIES[char]});")
    return f"(?:{'|'.join(ways)})"


_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot|#34", "'": "apos|#0?39|#x27"}


def forms_of(secret: str) -> set[str]:
    """How a secret may be written as something else: base64 and hexadecimal."""
    raw = secret.encode()
    found: set[str] = set()
    if len(raw) < 4:
        return found
    found |= {raw.hex(), raw.hex().upper()}
    for shift in range(3):  # where in a longer text it begins
        # Without the characters at both ends that hold bits of its neighbours.
        text = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        core = text[(0, 2, 3)[shift] :]
        core = core[: len(core) - 1] if (shift + len(raw)) % 3 else core
        if len(core) >= SHORT - 1:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    whole = base64.b64encode(raw).decode()
    return found | {whole, base64.urlsafe_b64encode(raw).decode(), whole.rstrip("=")}
