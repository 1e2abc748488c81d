"""The ChatCluster as a platform team writes it. The CRD in ``crds/`` is generated from these models (``crd``).

Knows no Kubernetes object and no cluster. Rules that concern several fields are CEL (``rule``), so that the API
server refuses with a sentence what would not work; the same sentences hold here for what was stored before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from chatcluster_operator import group
from chatcluster_operator.fields import Model, rule, rules
from chatcluster_operator.observability import Observability

GROUP, VERSION, PLURAL, KIND = group.GROUP, group.VERSION, group.PLURAL, group.KIND

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Key = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
HostPort = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9\[\]:]+:[0-9]{1,5}$", max_length=300)]
Host = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9:]+$", max_length=253)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=30)]


class SecretKey(Model):
    """One entry of a Secret in the ChatCluster's namespace. Mounted, never read."""

    name: DnsName
    key: Key


class SecretName(Model):
    """A Secret in the ChatCluster's namespace."""

    name: DnsName


class Tls(Model):
    """TLS to a dependency. Certificates are PEM entries of Secrets."""

    ca_secret_ref: SecretKey | None = Field(None, description="Authorities believed.")
    cert_secret_ref: SecretName | None = Field(
        None, description="Our certificate, where the servers ask for one: a Secret of type kubernetes.io/tls."
    )
    verify_names: bool = Field(True, description="Whether a certificate must name the address that we connect to.")


_AUTHORITY = rule(
    "!has(self.tls) || has(self.tls.caSecretRef)", "tls needs caSecretRef: whose certificates are believed"
)


# -- who may connect ----------------------------------------------------------------------------------------------


class Jwks(Model):
    url: Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=2000)]


class Auth(Model):
    """How users' tokens are verified: a key set (RS256, ES256, EdDSA) or one secret (HS256)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.jwks) != has(self.secretRef)",
                "exactly one of jwks and secretRef says how tokens are verified",
            )
        )
    )
    jwks: Jwks | None = None
    secret_ref: SecretKey | None = Field(None, description="Hexadecimal text of at least 32 bytes.")
    audience: Annotated[str, Field(max_length=500)] | None = None
    issuer: Annotated[str, Field(max_length=500)] | None = None
    allowed_origins: list[Annotated[str, Field(max_length=300)]] | None = Field(
        None, max_length=100, description="Origins of web pages that may connect, compared whole. Not set: any."
    )


class Api(Model):
    """The server API, on the routers' management port."""

    keys_secret_ref: SecretKey | None = Field(None, description="Its keys. Not set: the API is not served.")


class Routing(Model):
    """Hybrid routing: small channels go to inboxes, large ones have a timeline of their own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.hysteresis < self.inboxFanoutLimit", "hysteresis must be below inboxFanoutLimit")
        )
    )
    inbox_fanout_limit: int = Field(
        500, ge=2, le=5000, description="Members from which a channel has its own timeline."
    )
    hysteresis: int = Field(100, ge=0, le=4999, description="It goes back when it falls this far below the limit.")


# -- what it stands on ----------------------------------------------------------------------------------------------


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
    mode: Literal["sharded", "cluster"] = Field(
        "sharded", description="sharded: separate nodes, chosen by the clients; cluster: Redis Cluster."
    )
    endpoints: list[Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9\[\]:]+$", max_length=300)]] = Field(
        min_length=1, max_length=64, description="host:port of each node; with sentinels: names of masters."
    )
    sentinels: list[HostPort] | None = Field(None, min_length=1, max_length=16)
    username: Annotated[str, Field(max_length=200)] | None = None
    password_secret_ref: SecretKey | None = None
    sentinel_password_secret_ref: SecretKey | None = None
    tls: Tls | None = None
    prefix: Annotated[str, Field(pattern=r"^[-._:a-zA-Z0-9]+$", max_length=64)] | None = Field(
        None, description="Before every key and topic; by default the namespace and name of the ChatCluster."
    )


class Topic(Model):
    """A topic's size, for the life of the topic: a partition more would move keys."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.partitions == oldSelf.partitions", "partitions are fixed for the life of the topic")
        )
    )
    partitions: int = Field(64, ge=1, le=10_000)


class Topics(Model):
    messages: Topic = Topic()
    inbox: Topic = Topic()


class Sasl(Model):
    """Login at the brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: Annotated[str, Field(min_length=1, max_length=200)]
    password_secret_ref: SecretKey


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
    topic_prefix: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=100)] = "chatcluster."
    topics: Topics = Topics()
    replication_factor: int = Field(3, ge=1, le=15)
    min_insync_replicas: int = Field(2, ge=1, le=15)
    sasl: Sasl | None = None
    tls: Tls | None = None


class Cassandra(Model):
    """Cassandra or ScyllaDB: the store."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _AUTHORITY,
            rule("self.keyspace == oldSelf.keyspace", "keyspace names the store and cannot be changed"),
        )
    )
    contact_points: list[Host] = Field(min_length=1, max_length=64)
    port: int = Field(9042, ge=1, le=65535)
    local_datacenter: Annotated[str, Field(min_length=1, max_length=200)] = "datacenter1"
    keyspace: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)] = "chatcluster"
    replication_factor: int = Field(3, ge=1, le=15)
    username: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    password_secret_ref: SecretKey | None = None
    tls: Tls | None = None


class Embedded(Model):
    """Everything in one pod, on one volume: for trying it out."""

    storage: Quantity = "10Gi"
    storage_class_name: DnsName | None = None


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
    presence_redis: Redis | None = Field(None, description="Presence's own Redis. Not set: redis.")
    kafka: Kafka | None = None
    cassandra: Cassandra | None = None
    embedded: Embedded | None = None


# -- components -----------------------------------------------------------------------------------------------------


class Amounts(Model):
    cpu: Quantity | None = None
    memory: Quantity | None = None


class Resources(Model):
    requests: Amounts | None = None
    limits: Amounts | None = None


class Component(Model):
    """What every component's pods may be given."""

    resources: Resources | None = Field(None, description="Not set: what docs/operator.md names for the component.")
    node_selector: dict[str, str] | None = None
    tolerations: list[dict[str, Any]] | None = Field(None, max_length=50, description="As in a pod.")
    affinity: dict[str, Any] | None = Field(None, description="As in a pod.")
    topology_spread_constraints: list[dict[str, Any]] | None = Field(
        None, max_length=16, description="As in a pod. Not set: by zone and by host."
    )
    priority_class_name: DnsName | None = None
    pod_labels: dict[str, str] | None = None
    pod_annotations: dict[str, str] | None = None


Replicas = Annotated[int, Field(ge=0, le=10_000)]
Mode = Literal["none", "hpa", "keda", "builtin"]


class ScaleDown(Model):
    stabilization_seconds: int = Field(600, ge=0, le=3600, description="How long it must be too much before one goes.")


class Autoscaling(Model):
    """Who decides how many, and within what."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.min <= self.max", "min must not exceed max"),
            rule("self.mode != 'keda' || has(self.prometheusAddress)", "mode keda needs prometheusAddress"),
        )
    )
    mode: Mode = "none"
    scale_down: ScaleDown = ScaleDown()
    prometheus_address: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=500)] | None = Field(
        None, description="Where KEDA asks for the pods' metrics."
    )


class GatewayAutoscaling(Autoscaling):
    """Gateways follow their connections: CPU is flat for idle sockets."""

    min: int = Field(3, ge=1, le=10_000)
    max: int = Field(200, ge=1, le=10_000)
    target_connections_percent: int = Field(70, ge=10, le=95, description="Of capacity.connectionsPerPod.")
    headroom_percent: int = Field(20, ge=0, le=100, description="Pods above what the connections of now need.")


class Capacity(Model):
    connections_per_pod: int = Field(20_000, ge=1, le=1_000_000)


class Drain(Model):
    """How a gateway leaves: readiness off, wait, ``reconnect`` hints, closes with 1012 at a pace."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.propagationSeconds < self.deadlineSeconds",
                "deadlineSeconds must be longer than propagationSeconds, else nobody is drained",
            )
        )
    )
    propagation_seconds: int = Field(15, ge=0, le=300, description="Until every balancer knows.")
    connections_per_second: int = Field(200, ge=1, le=100_000, description="Closes of one gateway.")
    deadline_seconds: int = Field(900, ge=1, le=7200, description="Over it what is left is closed at once.")
    max_concurrent: int = Field(1, ge=1, le=100, description="Gateways that drain at the same time, upgrades included.")


class Service(Model):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    annotations: dict[str, str] | None = None
    load_balancer_class: DnsName | None = None


class Ingress(Model):
    class_name: DnsName | None = None
    host: DnsName
    tls_secret_name: DnsName | None = None
    annotations: dict[str, str] | None = None


class ParentRef(Model):
    name: DnsName
    namespace: DnsName | None = None
    section_name: DnsName | None = None


class GatewayApi(Model):
    """An HTTPRoute to gateways' Service."""

    parent_refs: list[ParentRef] = Field(min_length=1, max_length=32)
    hostnames: list[DnsName] | None = Field(None, max_length=16)


class Exposure(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!(has(self.ingress) && has(self.gatewayAPI))", "ingress and gatewayAPI exclude each other")
        )
    )
    service: Service = Service()
    ingress: Ingress | None = None
    gateway_api: GatewayApi | None = Field(None, alias="gatewayAPI")


class Gateway(Component):
    replicas: Replicas = 3
    capacity: Capacity = Capacity()
    autoscaling: GatewayAutoscaling = GatewayAutoscaling()
    drain: Drain = Drain()
    exposure: Exposure = Exposure()
    processes: int = Field(1, ge=1, le=64, description="Processes of one pod that share its port, one per core.")


class Router(Component):
    replicas: Replicas = 3


class PersisterAutoscaling(Autoscaling):
    """Persisters follow the log's lag, up to one per partition."""

    min: int = Field(2, ge=1, le=10_000)
    max: int = Field(16, ge=1, le=10_000)
    lag_per_replica: int = Field(10_000, ge=1, le=100_000_000, description="Records not yet stored.")


class Persister(Component):
    replicas: Replicas = 2
    autoscaling: PersisterAutoscaling = PersisterAutoscaling()


class Presence(Component):
    replicas: Replicas = 2


# -- around it ------------------------------------------------------------------------------------------------------


Section = dict[str, Any]


class Settings(Model):
    """Settings by section and key, as in docs/settings.md; they go before what the rest of the spec says."""

    gateway: Section | None = None
    sessions: Section | None = None
    router: Section | None = None
    persister: Section | None = None
    presence: Section | None = None
    push: Section | None = None
    redis: Section | None = None
    presence_redis: Section | None = None
    kafka: Section | None = None
    cassandra: Section | None = None
    routers: Section | None = None
    presences: Section | None = None
    link: Section | None = None
    logging: Section | None = None


class NetworkPolicy(Model):
    enabled: bool = True


class Spec(Model):
    """What a platform team asks for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.dependencies.kafka) || self.persister.autoscaling.max "
                "<= self.dependencies.kafka.topics.messages.partitions",
                "persister.autoscaling.max must not exceed the partitions of messages: more would stand idle",
            ),
            rule("has(self.version) || has(self.image)", "version or image says what runs"),
        )
    )
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+([-+][-+.a-zA-Z0-9]+)?$", max_length=64)] | None = (
        Field(None, description="Of the platform. Upgrades and downgrades go in order (docs/operator.md).")
    )
    image: Annotated[str, Field(pattern=r"^[^\s]+$", max_length=500)] | None = Field(
        None, description="Instead of the image of this version: registry/name@sha256:..."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[SecretName] | None = Field(None, max_length=16)
    auth: Auth
    api: Api = Api()
    routing: Routing = Routing()
    dependencies: Dependencies
    gateway: Gateway = Gateway()
    router: Router = Router()
    persister: Persister = Persister()
    presence: Presence = Presence()
    settings: Settings = Field(Settings(), description="Further settings of the roles (docs/settings.md).")
    network_policy: NetworkPolicy = NetworkPolicy()
    observability: Observability = Observability()
    paused: bool = Field(False, description="The operator writes nothing but the status.")
