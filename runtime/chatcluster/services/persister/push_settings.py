"""Settings of the push hook."""

from __future__ import annotations

import msgspec


class PushSettings(msgspec.Struct, frozen=True):
    """Who is told outside that a message came, and how. Seconds unless said."""

    enabled: bool = False
    """Whether members without a live session are written to the `notifications` topic."""

    delay: float = 5.0
    """Age of a reference before it is judged: who comes back from a tunnel needs no push."""

    max_age: float = 3600.0
    """Older messages are not pushed: after a long halt nobody wants yesterday's notifications."""

    preview: int = 120
    """Characters of the body in a notification; 0 keeps the text inside (privacy)."""

    slice: int = 500
    """Users per question to presence, and per notification."""

    presence_patience: float = 120.0
    """How long we wait for a presence store that does not answer or was wiped; then its word is taken:
    one push too many is better than one too few. Longer than presence's time to live."""

    presence_ttl: float = 60.0
    """How old a presence store's content must be before an absent session means offline."""

    webhook_url: str = ""
    """Where notifications are posted; https, or http on loopback. Empty: the topic alone."""

    secret_file: str = ""
    """Secrets that sign, one a line (`whsec_` and base64); the first signs. Read again when it changes."""

    webhook_timeout: float = 10.0
    """For one post as a whole."""

    webhook_batch: int = 100
    """Notifications in one post."""

    webhook_pause: float = 3600.0
    """After 410 Gone nothing is posted for this long."""

    alarm_after: float = 3600.0
    """After this long without a success one line is logged."""
