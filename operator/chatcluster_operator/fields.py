"""What the models of the API are made of: camelCase, no unknown fields, CEL rules beside the fields they concern.

The docstring under a field is its description, which ``kubectl explain`` shows: what it does, its unit, and what a
change of it does. A test holds that every field has one.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def rule(cel: str, message: str) -> dict[str, str]:
    """A CEL rule of an object: what must hold, and the sentence for whoever broke it."""
    return {"rule": cel, "message": message}


def rules(*given: dict[str, str]) -> dict[str, Any]:
    """For a model's ``json_schema_extra``."""
    return {"x-kubernetes-validations": list(given)}


class Model(BaseModel):
    """Written in camelCase; a field that nobody knows is an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
"""Of a Kubernetes label."""
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Key = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
HostPort = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9\[\]:]+:[0-9]{1,5}$", max_length=300)]
Host = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9:]+$", max_length=253)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=30)]
"""Of a Kubernetes resource: 500m, 2, 512Mi."""


class SecretKey(Model):
    """One entry of a Secret in the ChatCluster's namespace. Mounted, never read."""

    name: DnsName
    """Name of the Secret. While it does not exist, nothing is started or rolled; when its content changes, the
    components that mount it are rolled."""
    key: Key
    """Name of the entry."""


class SecretName(Model):
    """A Secret in the ChatCluster's namespace."""

    name: DnsName
    """Name of the Secret."""
