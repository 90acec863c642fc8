"""The resource itself: ``finetune.dev/v1alpha1``, kind FineTuneJob."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_operator.api.forms import NAME_LENGTH, JobName
from finetune_operator.api.spec import Spec

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
API_VERSION = f"{GROUP}/{VERSION}"


class Metadata(BaseModel):
    """ObjectMeta, of which only the name is ours to judge; the rest is the API server's."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel)

    name: JobName = Field(description=f"Lower-case letters, digits and hyphens, at most {NAME_LENGTH}.")
    namespace: str = "default"


class FineTuneJob(BaseModel):
    """One Kubernetes resource takes a chat model and a raw agent dataset to a served agent."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)

    api_version: Literal["finetune.dev/v1alpha1"] = Field(description=f"Write {API_VERSION}.")
    kind: Literal["FineTuneJob"] = Field(description=f"Write {KIND}.")
    metadata: Metadata = Field(description="Name, namespace, labels.")
    spec: Spec = Field(description="What to make.")
    status: dict[str, Any] | None = Field(default=None, description="Written by the operator.")
