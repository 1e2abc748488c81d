"""What the models of the API are made of: camelCase, no unknown fields, CEL rules beside the fields they concern."""

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

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
"""Of a Kubernetes label."""
