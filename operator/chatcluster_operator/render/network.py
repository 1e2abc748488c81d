"""Services, the way in from outside, and which flows are allowed. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from chatcluster_operator.names import LINK, MANAGEMENT, SOCKETS, Cluster
from chatcluster_operator.render.objects import Object, child
from chatcluster_operator.spec import Spec


def services(cluster: Cluster, spec: Spec) -> list[Object]:
    """For clients, for the server API, and headless ones by which gateways find each router and presence."""
    exposed = spec.gateway.exposure.service
    sockets: Object = {
        "type": exposed.type,
        "selector": cluster.selector("embedded" if spec.dependencies.embedded else "gateway"),
        "ports": [_port("sockets", SOCKETS, "kubernetes.io/ws")],
    }
    if exposed.load_balancer_class is not None:
        sockets["loadBalancerClass"] = exposed.load_balancer_class
    found = [
        child(cluster, "Service", "v1", "gateway", "gateway", annotations=exposed.annotations, spec=sockets),
    ]
    api = {
        "type": "ClusterIP",
        "selector": cluster.selector("embedded" if spec.dependencies.embedded else "router"),
        "ports": [_port("management", MANAGEMENT, "http")],
    }
    found.append(child(cluster, "Service", "v1", "api", "router", spec=api))
    if spec.dependencies.embedded is None:
        for component in ("router", "presence"):
            headless = {
                "type": "ClusterIP",
                "clusterIP": "None",
                "selector": cluster.selector(component),
                "ports": [_port("link", LINK)],
            }
            found.append(child(cluster, "Service", "v1", component, component, spec=headless))
    return found


def _port(name: str, number: int, protocol: str = "") -> Object:
    found: Object = {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}
    if protocol:
        found["appProtocol"] = protocol
    return found


def ways_in(cluster: Cluster, spec: Spec) -> list[Object]:
    """An Ingress, or an HTTPRoute of the Gateway API."""
    exposure = spec.gateway.exposure
    found = []
    if (ingress := exposure.ingress) is not None:
        backend = {"service": {"name": cluster.child("gateway"), "port": {"name": "sockets"}}}
        rule = {"host": ingress.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
        body: Object = {"rules": [rule]}
        if ingress.class_name is not None:
            body["ingressClassName"] = ingress.class_name
        if ingress.tls_secret_name is not None:
            body["tls"] = [{"hosts": [ingress.host], "secretName": ingress.tls_secret_name}]
        found.append(
            child(
                cluster,
                "Ingress",
                "networking.k8s.io/v1",
                "gateway",
                "gateway",
                annotations=ingress.annotations,
                spec=body,
            )
        )
    if (route := exposure.gateway_api) is not None:
        parents = [parent.model_dump(by_alias=True, exclude_none=True) for parent in route.parent_refs]
        body = {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", **parent} for parent in parents],
            "rules": [{"backendRefs": [{"name": cluster.child("gateway"), "port": SOCKETS}]}],
        }
        if route.hostnames:
            body["hostnames"] = list(route.hostnames)
        found.append(child(cluster, "HTTPRoute", "gateway.networking.k8s.io/v1", "gateway", "gateway", spec=body))
    return found


def policies(cluster: Cluster, spec: Spec) -> list[Object]:
    """Who may speak to whom: clients to gateways, gateways to routers and presences, all of them out to what they need.

    Egress to Redis, Kafka and Cassandra is by port, as their addresses are not ours to know; DNS is allowed. What they
    tell of other ports (brokers, masters) is for a policy of the user's own beside these: policies add up.
    """
    if not spec.network_policy.enabled:
        return []
    if spec.dependencies.embedded is not None:
        return [
            _policy(
                cluster,
                "embedded",
                [_from(None, SOCKETS, MANAGEMENT)],
                [_DNS, *_web(_jwks(spec), _webhook(spec))],
            )
        ]
    given = spec.dependencies
    redis = _ports_of([*given.redis.endpoints, *(given.redis.sentinels or ())] if given.redis else [], 6379)
    if given.presence_redis is not None:
        redis |= _ports_of([*given.presence_redis.endpoints, *(given.presence_redis.sentinels or ())], 6379)
    kafka = _ports_of(given.kafka.bootstrap_servers if given.kafka else [], 9092)
    cassandra = {given.cassandra.port} if given.cassandra else set()
    link = [_to(cluster.selector("router"), LINK), _to(cluster.selector("presence"), LINK)]
    management = _from(None, MANAGEMENT)
    keys = _web(_jwks(spec))
    stores = _to(None, *redis, *kafka, *cassandra)
    return [
        _policy(
            cluster,
            "gateway",
            [_from(None, SOCKETS), management],
            [_DNS, *link, _to(None, *redis, *cassandra), *keys],
        ),
        _policy(
            cluster,
            "router",
            [_from(cluster.selector("gateway"), LINK), management],
            [_DNS, stores],
        ),
        _policy(cluster, "persister", [management], [_DNS, stores, *_web(_webhook(spec))]),
        _policy(cluster, "presence", [_from(cluster.selector("gateway"), LINK), management], [_DNS, _to(None, *redis)]),
        _policy(cluster, "migrate", [], [_DNS, stores]),
    ]


# Policies see the port behind the Service: OpenShift's resolvers listen on 5353.
_DNS: Object = {"ports": [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]}


def _web(*urls: str | None) -> list[Object]:
    """Out to the ports of these URLs."""
    ports = {_port_of(url) for url in urls if url}
    return [_to(None, *ports)] if ports else []


def _port_of(url: str) -> int:
    parts = urlsplit(url)
    try:
        return parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:  # no number of a port: who asks there is told so
        return 443


def _jwks(spec: Spec) -> str | None:
    return None if spec.auth.jwks is None else spec.auth.jwks.url


def _webhook(spec: Spec) -> str | None:
    return (spec.settings.push or {}).get("webhook_url")


def _ports_of(addresses: list[str], usual: int) -> set[int]:
    """Of those that have one, and the usual one of those that have none, such as names of masters."""
    tails = [one.rpartition(":")[2] for one in addresses] or [""]
    return {int(tail) if tail.isdigit() else usual for tail in tails}


def _from(selector: dict[str, str] | None, *ports: int) -> Object:
    found: Object = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    if selector is not None:
        found["from"] = [{"podSelector": {"matchLabels": selector}}]
    return found


def _to(selector: dict[str, str] | None, *ports: int) -> Object:
    found: Object = {"ports": [{"protocol": "TCP", "port": port} for port in sorted(ports)]}
    if selector is not None:
        found["to"] = [{"podSelector": {"matchLabels": selector}}]
    return found


def _policy(cluster: Cluster, component: str, ingress: list[Any], egress: list[Any]) -> Object:
    spec = {
        "podSelector": {"matchLabels": cluster.selector(component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return child(cluster, "NetworkPolicy", "networking.k8s.io/v1", component, component, spec=spec)
