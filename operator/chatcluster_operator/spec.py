"""The ChatCluster as a platform team writes it. The CRD in ``crds/`` is generated from these models (``crd``).

Knows no Kubernetes object and no cluster. Rules that concern several fields are CEL (``rule``), so that the API
server refuses with a sentence what would not work; the same sentences hold here for what was stored before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from chatcluster_operator import group
from chatcluster_operator.dependencies import Dependencies
from chatcluster_operator.fields import DnsName, Model, Quantity, SecretKey, SecretName, rule, rules
from chatcluster_operator.observability import Observability

GROUP, VERSION, PLURAL, KIND = group.GROUP, group.VERSION, group.PLURAL, group.KIND


# -- who may connect ----------------------------------------------------------------------------------------------


class Jwks(Model):
    """A key set (RFC 7517) with the keys that sign users' tokens: RS256, ES256, EdDSA."""

    url: Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=2000)]
    """Where it is; https. Read again every 5 minutes, and when a token names an unknown key."""


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
    """A key set with the keys that sign users' tokens: RS256, ES256, EdDSA. Instead of secretRef."""
    secret_ref: SecretKey | None = None
    """The secret that signs users' tokens (HS256): hexadecimal text of at least 32 bytes. Instead of jwks."""
    audience: Annotated[str, Field(max_length=500)] | None = None
    """The aud that tokens must name. Not set: not checked."""
    issuer: Annotated[str, Field(max_length=500)] | None = None
    """The iss that tokens must have, exactly. Not set: not checked."""
    allowed_origins: list[Annotated[str, Field(max_length=300)]] | None = Field(None, max_length=100)
    """Origins of web pages that may connect, compared whole: https://app.example. Not set: any. Clients without an
    Origin header, which browsers always send, may connect."""


class Api(Model):
    """The server API, on the routers' management port."""

    keys_secret_ref: SecretKey | None = None
    """Its keys, as TOML: tables [[keys]], or one key alone. Not set: the API is not served."""


class Routing(Model):
    """Hybrid routing: small channels go to inboxes, large ones have a timeline of their own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.hysteresis < self.inboxFanoutLimit", "hysteresis must be below inboxFanoutLimit")
        )
    )
    inbox_fanout_limit: int = Field(500, ge=2, le=5000)
    """Members from which a channel has its own timeline."""
    hysteresis: int = Field(100, ge=0, le=4999)
    """Members by which a channel must fall below inboxFanoutLimit to go back to the inboxes."""


# -- components -----------------------------------------------------------------------------------------------------


class Amounts(Model):
    """CPU and memory, as quantities of Kubernetes."""

    cpu: Quantity | None = None
    """Cores: 500m is half a core."""
    memory: Quantity | None = None
    """Bytes: 512Mi, 1Gi."""


class Resources(Model):
    """What a pod's container asks for and may take."""

    requests: Amounts | None = None
    """What the scheduler reserves."""
    limits: Amounts | None = None
    """What it may take at most. A limit of cpu stalls every connection of a process that is throttled."""


class Component(Model):
    """What every component's pods may be given. A change of it rolls the component, and no other."""

    resources: Resources | None = None
    """What each pod asks for and may take, whole. Not set, as requests of cpu and memory and limit of memory: gateway
    and persister 500m, 512Mi, 1Gi; router 500m, 384Mi, 768Mi; presence 250m, 256Mi, 512Mi; no limit of cpu."""
    node_selector: dict[str, str] | None = None
    """Labels that a node must have, as in a pod."""
    tolerations: list[dict[str, Any]] | None = Field(None, max_length=50)
    """Taints of nodes that are tolerated, as in a pod."""
    affinity: dict[str, Any] | None = None
    """Nodes and pods that are sought or avoided, as in a pod."""
    topology_spread_constraints: list[dict[str, Any]] | None = Field(None, max_length=16)
    """How pods are spread, as in a pod. Not set: evenly by zone and by host, where that can be had."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pods. Not set: the cluster's default."""
    pod_labels: dict[str, str] | None = None
    """Labels of the pods besides the operator's own, which go before them."""
    pod_annotations: dict[str, str] | None = None
    """Annotations of the pods besides the operator's own, which go before them. Another value of
    chatcluster.dev/restarted-at restarts the component (kubectl chat restart)."""


Replicas = Annotated[int, Field(ge=0, le=10_000)]
Mode = Literal["none", "hpa", "keda", "builtin"]


class ScaleDown(Model):
    """When there are fewer."""

    stabilization_seconds: int = Field(600, ge=0, le=3600)
    """Seconds for which it must have been too much before one goes."""


class Autoscaling(Model):
    """Who decides how many, and within what."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.min <= self.max", "min must not exceed max"),
            rule("self.mode != 'keda' || has(self.prometheusAddress)", "mode keda needs prometheusAddress"),
        )
    )
    mode: Mode = "none"
    """none: replicas says how many; builtin: the operator itself, from the metrics of the pods; hpa: a
    HorizontalPodAutoscaler, which needs an adapter for metrics of pods; keda: a ScaledObject, which needs KEDA."""
    scale_down: ScaleDown = ScaleDown()
    """When there are fewer. Of more there is no delay."""
    prometheus_address: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=500)] | None = None
    """URL of the Prometheus that KEDA asks for the pods' metrics. Needed for mode keda, and used by no other."""


class GatewayAutoscaling(Autoscaling):
    """Gateways follow their connections: CPU is flat for idle sockets."""

    min: int = Field(3, ge=1, le=10_000)
    """The fewest gateways."""
    max: int = Field(200, ge=1, le=10_000)
    """The most gateways."""
    target_connections_percent: int = Field(70, ge=10, le=95)
    """Connections that each gateway shall have, in percent of capacity.connectionsPerPod."""
    headroom_percent: int = Field(20, ge=0, le=100)
    """Room above what the connections of now need, in percent of them. Mode builtin only."""


class Capacity(Model):
    """What a gateway is able to hold."""

    connections_per_pod: int = Field(20_000, ge=1, le=1_000_000)
    """Connections that a gateway takes; over it new ones are refused with 503. Several processes share them evenly, so
    one may refuse a little before the pod is full. A change rolls gateways."""


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
    propagation_seconds: int = Field(15, ge=0, le=300)
    """Seconds from readiness off until every load balancer knows; then the gateway takes no connection any more. A
    change rolls gateways."""
    connections_per_second: int = Field(200, ge=1, le=100_000)
    """Connections that one gateway closes in a second, so that the others are not stormed. A change rolls gateways."""
    deadline_seconds: int = Field(900, ge=1, le=7200)
    """Seconds that a drain may take; over it what is left is closed at once. The pods' grace period is 30 s longer. A
    change rolls gateways; those of before leave by the numbers with which they were started."""
    max_concurrent: int = Field(1, ge=1, le=100)
    """Gateways that drain at the same time, upgrades included. A change rolls nothing."""


class Service(Model):
    """The Service of gateways, port 8080."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    annotations: dict[str, str] | None = None
    """Annotations of the Service, such as those of the cloud's load balancer."""
    load_balancer_class: DnsName | None = None
    """Which load balancer takes the Service, with type LoadBalancer. Not set: the cluster's default. Kubernetes does
    not let it change while the type stays."""


class Ingress(Model):
    """An Ingress to the Service of gateways."""

    class_name: DnsName | None = None
    """IngressClass. Not set: the cluster's default."""
    host: DnsName
    """Host name under which clients connect."""
    tls_secret_name: DnsName | None = None
    """Name of a Secret of type kubernetes.io/tls with the certificate for host. Not set: no TLS at the Ingress."""
    annotations: dict[str, str] | None = None
    """Annotations of the Ingress, such as longer timeouts of its controller: WebSockets are quiet for up to 25 s."""


class ParentRef(Model):
    """A Gateway of the Gateway API."""

    name: DnsName
    """Name of the Gateway."""
    namespace: DnsName | None = None
    """Its namespace. Not set: the ChatCluster's."""
    section_name: DnsName | None = None
    """Its listener. Not set: all that allow the route."""


class GatewayApi(Model):
    """An HTTPRoute to gateways' Service."""

    parent_refs: list[ParentRef] = Field(min_length=1, max_length=32)
    """Gateways of the Gateway API to which the route belongs."""
    hostnames: list[DnsName] | None = Field(None, max_length=16)
    """Host names under which clients connect. Not set: those of the listeners."""


class Exposure(Model):
    """How clients come in. A change of it rolls nothing."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!(has(self.ingress) && has(self.gatewayAPI))", "ingress and gatewayAPI exclude each other")
        )
    )
    service: Service = Service()
    """The Service of gateways, port 8080. There always is one."""
    ingress: Ingress | None = None
    """An Ingress to the Service. Not set: none. Not together with gatewayAPI."""
    gateway_api: GatewayApi | None = Field(None, alias="gatewayAPI")
    """An HTTPRoute of the Gateway API to the Service. Not set: none. Not together with ingress."""


class Gateway(Component):
    """Gateways hold the clients' connections."""

    replicas: Replicas = 3
    """How many gateways. Fewer are drained, the emptiest first. Mode builtin goes before it; with hpa and keda they
    write it, through the scale subresource."""
    capacity: Capacity = Capacity()
    """What a gateway is able to hold."""
    autoscaling: GatewayAutoscaling = GatewayAutoscaling()
    """Who decides how many gateways there are. A change rolls nothing."""
    drain: Drain = Drain()
    """How a gateway leaves: readiness off, wait, reconnect hints, closes with 1012 at a pace."""
    exposure: Exposure = Exposure()
    """How clients come in. A change rolls nothing."""
    processes: int = Field(1, ge=1, le=64)
    """Processes of one pod that share its port, one per core; what a gateway may hold and how fast it drains is shared
    among them, and resources are the pod's. A change rolls gateways."""


class Router(Component):
    """Routers take sends and answer requests; they serve the server API, too."""

    replicas: Replicas = 3
    """How many routers. A change rolls nothing."""


class PersisterAutoscaling(Autoscaling):
    """Persisters follow the log's lag, up to one per partition."""

    min: int = Field(2, ge=1, le=10_000)
    """The fewest persisters."""
    max: int = Field(16, ge=1, le=10_000)
    """The most persisters; no more than dependencies.kafka.topics.messages.partitions."""
    lag_per_replica: int = Field(10_000, ge=1, le=100_000_000)
    """Records of the log not yet stored for which there is one persister."""


class Persister(Component):
    """Persisters bring the log into the store, into inboxes and to push notifications."""

    replicas: Replicas = 2
    """How many persisters. A change rolls nothing. With any autoscaling it does not count once they run."""
    autoscaling: PersisterAutoscaling = PersisterAutoscaling()
    """Who decides how many persisters there are. A change rolls nothing."""


class Presence(Component):
    """Presence knows who is online."""

    replicas: Replicas = 2
    """How many pods of presence. A change rolls nothing."""


# -- around it ------------------------------------------------------------------------------------------------------


Section = dict[str, Any]


class Settings(Model):
    """Settings by section and key, as in docs/settings.md; they go before what the rest of the spec says.

    A section rolls the components that read it.
    """

    gateway: Section | None = None
    """Connections: frames, limits, heartbeats. A change rolls gateways."""
    sessions: Section | None = None
    """Sessions on gateways: resuming, proof, presence. A change rolls gateways."""
    router: Section | None = None
    """Routers: limits of sends and of requests. A change rolls routers, and gateways, which tell clients of limits."""
    persister: Section | None = None
    """Persisters. A change rolls persisters."""
    presence: Section | None = None
    """Presence. A change rolls presence and persisters."""
    push: Section | None = None
    """Push notifications: the topic and the webhook. A change rolls persisters."""
    redis: Section | None = None
    """Clients of Redis: timeouts, sizes of caches. A change runs the migration and rolls all components."""
    presence_redis: Section | None = None
    """Clients of presence's own Redis; of no effect without dependencies.presenceRedis. A change rolls all
    components."""
    kafka: Section | None = None
    """Clients of Kafka, and retention of topics that are made. A change runs the migration and rolls persisters and
    routers."""
    cassandra: Section | None = None
    """Clients of Cassandra. A change runs the migration and rolls persisters, routers and gateways."""
    routers: Section | None = None
    """Gateways' links to routers. A change rolls gateways."""
    presences: Section | None = None
    """Gateways' links to presence. A change rolls gateways."""
    link: Section | None = None
    """The other end of gateways' links. A change rolls routers and presence."""
    logging: Section | None = None
    """level and format of logs. A change runs the migration and rolls all components."""


class NetworkPolicy(Model):
    """Which flows are allowed."""

    enabled: bool = True
    """Whether each component has a NetworkPolicy: in, what clients, Prometheus and gateways need; out, DNS and the
    ports named for what it stands on. Policies add up: for brokers that advertise other ports make one of your own
    beside these. Needs a network that enforces them."""


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
        None
    )
    """Version of the platform, and the tag of its image, with _ for +. A change runs the migration, then rolls
    persisters, routers, presence and gateways, one after the other; the other way round when it goes down. version or
    image is needed."""
    image: Annotated[str, Field(pattern=r"^[^\s]+$", max_length=500)] | None = None
    """Image instead of the one of version: registry/name@sha256:... A change runs the migration, then rolls all
    components, one after the other. Of two images of one version none is newer: none rolls the other way round."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet asks the registry for the image. With Always no pod starts while the registry is away. A change
    runs the migration and rolls all components."""
    image_pull_secrets: list[SecretName] | None = Field(None, max_length=16)
    """Secrets of type kubernetes.io/dockerconfigjson by which the image is pulled. A change runs the migration
    and rolls all components."""
    auth: Auth
    """How users' tokens are verified: by a key set or by one secret. A change rolls gateways."""
    api: Api = Api()
    """The server API, for the product's back end. A change rolls routers."""
    routing: Routing = Routing()
    """From how many members on a channel has a timeline of its own. A change rolls persisters and routers."""
    dependencies: Dependencies
    """What it stands on: Redis, Kafka and Cassandra that you bring, or embedded for trying it out."""
    gateway: Gateway = Gateway()
    """Gateways: they hold the clients' connections. A change of their pods replaces them one by one or by
    drain.maxConcurrent: first the successor, then the drain. With dependencies.embedded what is said of pods is said of
    its one pod."""
    router: Router = Router()
    """Routers: they take sends, append them to the log and answer requests. A change of their pods rolls them alone."""
    persister: Persister = Persister()
    """Persisters: they bring the log into the store and into inboxes. A change of their pods rolls them alone."""
    presence: Presence = Presence()
    """Presence: it knows who is online. A change of its pods rolls it alone."""
    settings: Settings = Settings()
    """Further settings of the roles, by section and key (docs/settings.md); they go before what the rest of the spec
    says. A change rolls the components that read the section."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """Which flows are allowed between pods. A change rolls nothing."""
    observability: Observability = Observability()
    """What is made for the Prometheus operator and for Grafana. A change rolls nothing."""
    paused: bool = False
    """While true the operator writes nothing but the status; what runs goes on, and changes of the spec wait."""
