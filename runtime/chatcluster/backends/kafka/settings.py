"""Settings of the Kafka log: section ``[kafka]``."""

from __future__ import annotations

import msgspec


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is, what its topics must be, and every bound and wait. The unit is at the end of the name."""

    bootstrap_servers: tuple[str, ...] = ("127.0.0.1:9092",)
    """``host:port`` of brokers asked first; one that answers names all others."""

    topic_prefix: str = "chatcluster."
    """Before the name of every topic and group, so that several platforms may share a cluster."""

    message_partitions: int = 64
    """Partitions of ``messages``: the most persisters that share stage 1. Fixed for the life of the topic."""

    inbox_partitions: int = 64
    """Partitions of ``inbox``: the most persisters that share stage 2. Fixed for the life of the topic."""

    other_partitions: int = 8
    """Partitions of each other topic. Fixed for the life of the topic."""

    replication_factor: int = 3
    """Copies of each partition. With 3 one broker may be lost without a pause of sends; 1 is for development alone."""

    min_insync_replicas: int = 2
    """Copies that must have a record before it is durable. Below it sends are refused, never weakened."""

    message_retention_hours: int = 168
    """How long ``messages`` and ``inbox`` are kept. More than the 24 h for which repeats are recognised, and longer
    than persisters may ever be down: what goes before it was stored is lost."""

    dead_letter_retention_hours: int = 720
    """How long ``dead-letters`` are kept: time for somebody to look at them."""

    notification_retention_hours: int = 24
    """How long ``notifications`` are kept: nobody wants an older push."""

    ca_file: str = ""
    """Certificates that sign the brokers' certificates; none: the connection is not encrypted."""

    cert_file: str = ""
    """Our certificate, where brokers ask for one."""

    key_file: str = ""
    """Its private key."""

    verify_names: bool = True
    """Whether a broker's certificate must name the address that we connect to."""

    sasl_mechanism: str = "SCRAM-SHA-512"
    """``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``; of use with ``username`` only."""

    username: str = ""
    """User to log in as; none: the brokers ask for none."""

    password_file: str = ""
    """File with the password. Read again while we run, so that it can be changed: new connections use the new one."""

    acks: str = "all"
    """Copies waited for. Only ``all`` is allowed: anything less acknowledges what a fail-over loses."""

    linger_ms: float = 1.0
    """How long a record waits for others to share a request with. See the table in docs/kafka.md."""

    message_timeout_ms: int = 40_000
    """How long a record is tried. 30,000 or more (longer than a fail-over: a shorter one gives sends up that then
    stand in the log twice) and less than A = 60,000 (a record stored later than that is void)."""

    socket_timeout_ms: int = 5_000
    """A broker that is silent for so long is given up: how long a frozen broker stalls us."""

    connect_timeout_ms: int = 3_000
    """How long one connection may take to open, TLS and login included (1,000 at least)."""

    request_timeout_ms: int = 5_000
    """How long a commit, a search by time or a question about topics may take."""

    reconnect_cap_ms: int = 2_000
    """The longest wait between two tries to reach a broker: how late we notice that it is back."""

    max_in_flight: int = 20_000
    """Appends without a report; over it ``Full``."""

    max_in_flight_bytes: int = 64 * 1024 * 1024
    """The same in bytes of values."""

    close_timeout: float = 5.0
    """Seconds to write what is queued when the process leaves; what is left then is reported as failed."""

    fetch_records: int = 512
    """Entries of one partition in one fetch."""

    fetch_bytes: int = 4 * 1024 * 1024
    """Bytes of values in one fetch, of all partitions (one record more at most)."""

    buffer_records: int = 20_000
    """Records read ahead of the caller; over it partitions are paused."""

    buffer_bytes: int = 32 * 1024 * 1024
    """The same in bytes. The driver may hold as much again on its side."""

    fetch_wait_ms: int = 250
    """How long a broker may hold a fetch when there is nothing; news are answered at once."""

    session_timeout_ms: int = 10_000
    """A persister silent for so long loses its partitions to others."""

    heartbeat_interval_ms: int = 1_000
    """Between a consumer's signs of life: a third of ``session_timeout_ms`` at most."""


def faults(settings: KafkaSettings) -> list[str]:
    """What is wrong with the settings by themselves: key, value, what is allowed, why."""
    found = []
    if settings.acks != "all":
        found.append(f"kafka.acks = {settings.acks!r}: only 'all' is allowed, else a fail-over loses acked messages")
    if not 30_000 <= settings.message_timeout_ms < 60_000:
        found.append(
            f"kafka.message_timeout_ms = {settings.message_timeout_ms}: allowed: 30000 (longer than a fail-over) to "
            f"59999 (less than A, after which a record is void)"
        )
    if settings.replication_factor < settings.min_insync_replicas:
        found.append(
            f"kafka.min_insync_replicas = {settings.min_insync_replicas}: allowed: 1 to kafka.replication_factor "
            f"({settings.replication_factor}), else no record is ever durable"
        )
    if settings.min_insync_replicas < 1:
        found.append(f"kafka.min_insync_replicas = {settings.min_insync_replicas}: allowed: 1 or more")
    if settings.message_retention_hours <= 24:
        found.append(
            f"kafka.message_retention_hours = {settings.message_retention_hours}: allowed: more than 24, the hours for "
            f"which repeats are recognised"
        )
    found += [
        f"kafka.{key} = {getattr(settings, key)}: allowed: 1 to 10000"
        for key in ("message_partitions", "inbox_partitions", "other_partitions")
        if not 1 <= getattr(settings, key) <= 10_000
    ]
    if settings.sasl_mechanism not in {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}:
        found.append(
            f"kafka.sasl_mechanism = {settings.sasl_mechanism!r}: allowed: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"
        )
    if settings.username and not settings.password_file:
        found.append("kafka.password_file = '': needed with kafka.username")
    if settings.heartbeat_interval_ms * 3 > settings.session_timeout_ms:
        found.append(
            f"kafka.heartbeat_interval_ms = {settings.heartbeat_interval_ms}: allowed: up to a third of "
            f"kafka.session_timeout_ms ({settings.session_timeout_ms})"
        )
    if settings.connect_timeout_ms < 1_000:
        found.append(f"kafka.connect_timeout_ms = {settings.connect_timeout_ms}: allowed: 1000 or more")
    return found
