"""Settings that the embedded platform and the roles of a cluster have in common, and what they must say alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from chatcluster.app.settings import BadSettings, convert
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.settings import GatewaySettings
from chatcluster.services.persister.push_settings import PushSettings
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.presence.settings import PresenceSettings
from chatcluster.services.router.settings import RouterSettings

MAX_INBOX_FANOUT = 5_000
"""Hard cap of the inbox route: one message writes this many inbox rows."""


class RoutingSettings(msgspec.Struct, frozen=True):
    """Hybrid routing, for router and persister alike."""

    inbox_fanout_limit: int = 500
    """Members from which a channel has a timeline of its own instead of being written to every inbox."""
    hysteresis: int = 100
    """A channel goes back to the inboxes when it falls this far below the limit."""


class PlatformSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A section per role, and what concerns several."""

    gateway: GatewaySettings = GatewaySettings()
    sessions: SessionSettings = SessionSettings()
    router: RouterSettings = RouterSettings()
    persister: PersisterSettings = PersisterSettings()
    presence: PresenceSettings = PresenceSettings()
    routing: RoutingSettings = RoutingSettings()
    push: PushSettings = PushSettings()


P = TypeVar("P", bound=PlatformSettings)


def settings_from(sections: Mapping[str, Mapping[str, Any]], kind: type[P]) -> P:
    """Typed settings of raw sections. Raises ``BadSettings`` by name of what is wrong."""
    types = {field.name: section_type(field.type) for field in msgspec.structs.fields(kind)}
    for name in sections:
        if name not in types:
            raise BadSettings(f"[{name}]: no such section; allowed: {', '.join(types)}")
    settings = kind(**{name: convert(name, values, types[name]) for name, values in sections.items()})
    return agreed(settings)


def section_type(wanted: Any) -> Any:
    """The struct of a section, also of one that may be left out."""
    return next((kind for kind in getattr(wanted, "__args__", ()) if kind is not type(None)), wanted)


def agreed(settings: P) -> P:
    """What several roles must say alike, said once. Raises ``BadSettings``."""
    routing, limits = settings.routing, settings.sessions.limits
    if not 2 <= routing.inbox_fanout_limit <= MAX_INBOX_FANOUT:
        raise BadSettings(
            f"routing.inbox_fanout_limit = {routing.inbox_fanout_limit}: allowed: 2 to {MAX_INBOX_FANOUT}"
        )
    if not 0 <= routing.hysteresis < routing.inbox_fanout_limit:
        raise BadSettings(f"routing.hysteresis = {routing.hysteresis}: allowed: 0 to inbox_fanout_limit - 1")
    replace = msgspec.structs.replace
    router = replace(settings.router, inbox_fanout_limit=routing.inbox_fanout_limit)
    limits = replace(
        limits,
        max_frame_bytes=settings.gateway.max_frame_bytes,
        max_body_bytes=router.max_body_bytes,
        sends_per_second=int(router.sends_per_second),
        page=router.page,
    )
    return replace(
        settings,
        router=router,
        push=replace(settings.push, presence_ttl=settings.presence.ttl_ms / 1000),
        persister=replace(
            settings.persister,
            inbox_fanout_limit=routing.inbox_fanout_limit,
            inbox_fanout_floor=routing.inbox_fanout_limit - routing.hysteresis,
        ),
        sessions=replace(settings.sessions, limits=limits),
    )
