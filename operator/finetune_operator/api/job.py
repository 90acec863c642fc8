"""The resource itself: ``finetune.dev/v1alpha1``, kind FineTuneJob."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from finetune_operator.api.spec import Spec

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
API_VERSION = f"{GROUP}/{VERSION}"
NAME_LENGTH = 40
"""Longest name: `<job>-<stage>-<digest>` must stay a DNS label of 63."""


class Metadata(BaseModel):
    """ObjectMeta, of which only the name is ours to judge; the rest is the API server's."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=NAME_LENGTH)] = Field(
        description=f"Lower-case letters, digits and hyphens, at most {NAME_LENGTH}."
    )
    namespace: str = "default"


class FineTuneJob(BaseModel):
    """One Kubernetes resource takes a chat model and a raw agent dataset to a served agent."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)

    api_version: Literal["finetune.dev/v1alpha1"] = Field(description=f"Write {API_VERSION}.")
    kind: Literal["FineTuneJob"] = Field(description=f"Write {KIND}.")
    metadata: Metadata = Field(description="Name, namespace, labels.")
    spec: Spec = Field(description="What to make.")
    status: dict[str, Any] | None = Field(default=None, description="Written by the operator.")
