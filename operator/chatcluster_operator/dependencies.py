"""``spec.dependencies``: what a platform stands on: Redis, Kafka and Cassandra of one's own, or embedded to try it out.

Rules that concern several fields are CEL, as in ``spec``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from chatcluster_operator.fields import DnsName, Host, HostPort, Model, Quantity, SecretKey, SecretName, rule, rules


class Tls(Model):
    """TLS to a dependency. Certificates are PEM entries of Secrets."""

    ca_secret_ref: SecretKey | None = None
    """The certificate authorities that are believed. Needed for Kafka and Cassandra; Redis without it: the system's."""
    cert_secret_ref: SecretName | None = None
    """The client's certificate, where the servers ask for one: a Secret of type kubernetes.io/tls."""
    verify_names: bool = True
    """Whether a server's certificate must name the address that is connected to."""


_AUTHORITY = rule(
    "!has(self.tls) || has(self.tls.caSecretRef)", "tls needs caSecretRef: whose certificates are believed"
)


class Redis(Model):
    """Redis for bus, tails and caches. Every key may be lost."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.mode == 'sharded' || !has(self.sentinels)", "sentinels go with mode sharded"),
            rule(
                "has(self.sentinels) || self.endpoints.all(e, e.matches('^.+:[0-9]{1,5}$'))",
                "endpoints are host:port (names of masters only with sentinels)",
            ),
        )
    )
    mode: Literal["sharded", "cluster"] = "sharded"
    """sharded: separate nodes, among which the clients choose by the key; cluster: Redis Cluster."""
    endpoints: list[Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9\[\]:]+$", max_length=300)]] = Field(
        min_length=1, max_length=64
    )
    """sharded: host:port of each node, or with sentinels the names of masters; another list moves keys to other nodes.
    cluster: host:port of some nodes, from which the others are learnt."""
    sentinels: list[HostPort] | None = Field(None, min_length=1, max_length=16)
    """host:port of the Sentinels that know the masters named in endpoints. Not set: endpoints are addresses."""
    username: Annotated[str, Field(max_length=200)] | None = None
    """User of Redis' access lists (ACL). Not set: the default user."""
    password_secret_ref: SecretKey | None = None
    """The user's password. Not set: Redis asks for none."""
    sentinel_password_secret_ref: SecretKey | None = None
    """The password of the Sentinels. Not set: they ask for none."""
    tls: Tls | None = None
    """TLS to nodes and Sentinels. Not set: plain TCP."""
    prefix: Annotated[str, Field(pattern=r"^[-._:a-zA-Z0-9]+$", max_length=64)] | None = None
    """Before every key and topic, so that several platforms may share a Redis. Not set: cc:NAMESPACE:NAME: of the
    ChatCluster. With another prefix the platform starts with empty caches."""


class Topic(Model):
    """A topic's size, for the life of the topic: a partition more would move keys."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.partitions == oldSelf.partitions", "partitions are fixed for the life of the topic")
        )
    )
    partitions: int = Field(64, ge=1, le=10_000)
    """Partitions of the topic: the most persisters that can share its work. Cannot be changed."""


class Topics(Model):
    """Topics whose size is chosen when they are made."""

    messages: Topic = Topic()
    """Every message of every channel; persister.autoscaling.max must not exceed its partitions."""
    inbox: Topic = Topic()
    """What goes to users' inboxes."""


class Sasl(Model):
    """Login at the brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL mechanism. PLAIN sends the password as it is: only with tls."""
    username: Annotated[str, Field(min_length=1, max_length=200)]
    """User to log in as."""
    password_secret_ref: SecretKey
    """The user's password."""


class Kafka(Model):
    """Kafka: the log, which is the truth."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.minInsyncReplicas <= self.replicationFactor",
                "minInsyncReplicas must not exceed replicationFactor, else no record is ever durable",
            ),
            _AUTHORITY,
            rule("self.topicPrefix == oldSelf.topicPrefix", "topicPrefix names the log and cannot be changed"),
        )
    )
    bootstrap_servers: list[HostPort] = Field(min_length=1, max_length=64)
    """host:port of brokers that are asked first; one that answers names all others."""
    topic_prefix: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=100)] = "chatcluster."
    """Before the name of every topic and consumer group, so that several platforms may share a Kafka. Cannot be
    changed."""
    topics: Topics = Topics()
    """Sizes of topics, which the migration makes before the first start."""
    replication_factor: int = Field(3, ge=1, le=15)
    """Copies of each partition of topics that the migration makes. It does not change topics that are there, and fails
    where they have fewer. With 3 one broker may be lost without a pause of sends; 1 is for trying out."""
    min_insync_replicas: int = Field(2, ge=1, le=15)
    """Copies that must have a record before it is durable and the send is acknowledged. With fewer copies in sync sends
    are refused."""
    sasl: Sasl | None = None
    """Login at the brokers. Not set: they ask for none."""
    tls: Tls | None = None
    """TLS to the brokers. Not set: plain TCP."""


class Cassandra(Model):
    """Cassandra or ScyllaDB: the store."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _AUTHORITY,
            rule("self.keyspace == oldSelf.keyspace", "keyspace names the store and cannot be changed"),
        )
    )
    contact_points: list[Host] = Field(min_length=1, max_length=64)
    """Addresses that are asked first, without a port; one that answers names all other nodes."""
    port: int = Field(9042, ge=1, le=65535)
    """Port of the native protocol, the same on every node."""
    local_datacenter: Annotated[str, Field(min_length=1, max_length=200)] = "datacenter1"
    """The datacenter whose nodes are asked: reads and writes wait for its quorum (LOCAL_QUORUM) and for no other's."""
    keyspace: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)] = "chatcluster"
    """Keyspace of all tables; the migration makes it where it is not there. Cannot be changed."""
    replication_factor: int = Field(3, ge=1, le=9)
    """Copies of each row in the local datacenter, of a keyspace that the migration makes; it fails where a keyspace
    that is there has fewer. With 3 one node may be lost; 1 is for trying out."""
    username: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Role to log in as. Not set: the nodes ask for none."""
    password_secret_ref: SecretKey | None = None
    """The role's password."""
    tls: Tls | None = None
    """TLS to the nodes. Not set: plain TCP."""


class Embedded(Model):
    """Everything in one pod, on one volume: for trying it out."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.storage == oldSelf.storage",
                "storage is the size with which the volume is made: enlarge its claim itself",
            ),
            rule(
                "has(self.storageClassName) == has(oldSelf.storageClassName) && "
                "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
                "storageClassName is that of the volume and cannot be changed",
            ),
        )
    )
    storage: Quantity = "10Gi"
    """Size of the volume. Cannot be changed: enlarge the claim itself later."""
    storage_class_name: DnsName | None = None
    """StorageClass of the volume. Not set: the cluster's default. Cannot be changed."""


class Dependencies(Model):
    """Bring your own Redis, Kafka and Cassandra, or embedded for evaluation."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.embedded) ? !has(self.redis) && !has(self.kafka) && !has(self.cassandra) : "
                "has(self.redis) && has(self.kafka) && has(self.cassandra)",
                "either embedded alone, or redis, kafka and cassandra together",
            ),
            rule(
                "has(self.embedded) == has(oldSelf.embedded)", "embedded cannot be turned on or off: it has other data"
            ),
            rule("!has(self.presenceRedis) || has(self.redis)", "presenceRedis goes with redis"),
        )
    )
    redis: Redis | None = None
    """Redis for bus, tails and caches: every key may be lost. A change runs the migration and rolls all components."""
    presence_redis: Redis | None = None
    """A Redis of its own for presence. Not set: that of redis. A change rolls all components."""
    kafka: Kafka | None = None
    """Kafka: the log, which is the truth. A change runs the migration and rolls persisters and routers."""
    cassandra: Cassandra | None = None
    """Cassandra or ScyllaDB: the store, from which history is read. A change runs the migration and rolls persisters,
    routers and gateways."""
    embedded: Embedded | None = None
    """Everything in one pod, on one volume, without Redis, Kafka and Cassandra: for trying it out. Every roll-out
    closes all connections for a moment; nothing scales. Cannot be turned on or off later."""
