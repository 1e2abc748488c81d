"""Internal links: gateway to router and gateway to presence, over TCP. Ports ``Router`` and ``PresenceService``."""
