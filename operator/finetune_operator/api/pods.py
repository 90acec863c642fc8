"""What a user writes of the stages' pods: resources, where they run, environment. Read by manifests/pod.py."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from finetune_jobs.contract import Contract, DnsName, Stage
from finetune_operator.api.forms import LabelValue, QualifiedName, Quantity, SecretKeyName, VariableName, nanos

Annotations = dict[QualifiedName, Annotated[str, StringConstraints(max_length=1024)]]

EXISTS_HAS_NO_VALUE = "operator: Exists compares no value; leave out value, or write operator: Equal"
ALL_TAINTS = "without a key a toleration is for all taints; write operator: Exists, or the taint's key"
ONLY_NO_EXECUTE = "only NoExecute is tolerated for a time; write effect: NoExecute, or leave out tolerationSeconds"


class Toleration(Contract):
    """A taint that the pod accepts."""

    key: QualifiedName | None = Field(default=None, description="Taint key; left out, it is for all.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="How the value is compared.")
    value: LabelValue | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect to accept; left out, all are."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2_147_483_647, description="How long NoExecute is tolerated."
    )

    @model_validator(mode="after")
    def _as_a_pod_takes_it(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(EXISTS_HAS_NO_VALUE)
        if self.operator != "Exists" and self.key is None:
            raise ValueError(ALL_TAINTS)
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(ONLY_NO_EXECUTE)
        return self


class SecretKey(Contract):
    """A key of a Secret."""

    name: DnsName = Field(description="Name of the Secret.")
    key: SecretKeyName = Field(description="Key inside the Secret.")


class SecretEnv(Contract):
    """A value that the pod takes from a Secret."""

    secret_key_ref: SecretKey = Field(description="Key of the Secret.")


class EnvVar(Contract):
    """An environment variable of the stage's pod."""

    name: VariableName = Field(description="Name of the variable.")
    value: str | None = Field(default=None, max_length=32768, description="Its value.")
    value_from: SecretEnv | None = Field(default=None, description="Take the value from a Secret.")

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if (self.value is None) == (self.value_from is None):
            raise ValueError("write value or valueFrom, one of the two")
        return self


WHOLE = "[0-9]{1,9}"
WHOLE_DEVICES = 'devices, such as nvidia.com/gpu, can\'t be shared; write a whole number, such as "1"'
OWN_RESOURCES = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = "hugepages-"
KNOWN_RESOURCE = (
    f"write {', '.join(OWN_RESOURCES)}, {HUGE_PAGES} with a size, or a device with its vendor, such as nvidia.com/gpu"
)
WITHIN_LIMITS = "a pod never gets more than its limits; write requests that are no larger than the limits beside them"
DEVICES_IN_LIMITS = (
    "devices, such as nvidia.com/gpu, stand in limits; write the same number there, or leave them out of requests"
)


class Resources(Contract):
    """Processor, memory and devices of a pod."""

    requests: dict[QualifiedName, Quantity] = Field(
        default_factory=dict, max_length=64, description='Reserved, such as cpu: "4".'
    )
    limits: dict[QualifiedName, Quantity] = Field(
        default_factory=dict, max_length=64, description='Never exceeded, such as memory: "24Gi".'
    )

    @model_validator(mode="after")
    def _resources_that_a_pod_can_have(self) -> Self:
        for name, quantity in (*self.requests.items(), *self.limits.items()):
            if not (name in OWN_RESOURCES or name.startswith(HUGE_PAGES) or "/" in name):
                raise ValueError(f"{name!r} is no resource of a pod; {KNOWN_RESOURCE}")
            if "/" in name and not re.fullmatch(WHOLE, quantity):
                raise ValueError(f"{name}: {quantity!r} is no number of devices; {WHOLE_DEVICES}")
        for name, asked in self.requests.items():
            limit = self.limits.get(name)
            if "/" in name and asked != limit:
                raise ValueError(
                    f"{name}: {asked!r} in requests, {limit or 'nothing'!r} in limits; {DEVICES_IN_LIMITS}"
                )
            if limit is not None and nanos(asked) > nanos(limit):
                raise ValueError(f"{name}: {asked!r} is asked for and {limit!r} is the limit; {WITHIN_LIMITS}")
        return self


class StageSettings(Contract):
    """Where and how one stage's pod runs."""

    resources: Resources | None = Field(default=None, description="Processor, memory and devices.")
    node_selector: dict[QualifiedName, LabelValue] = Field(
        default_factory=dict, max_length=64, description="Labels that the node must have."
    )
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=50, description="Taints that are accepted.")
    runtime_class_name: DnsName | None = Field(
        default=None, description="RuntimeClass, such as nvidia, where that is not what the node runs pods with."
    )
    annotations: Annotations = Field(
        default_factory=dict, max_length=64, description="Of the pods, such as karpenter.sh/do-not-disrupt."
    )
    env: tuple[EnvVar, ...] = Field(default=(), max_length=100, description="Environment variables.")


class Stages(Contract):
    """Settings by stage."""

    model: StageSettings | None = Field(default=None, description="The pod that brings the base model.")
    dataset: StageSettings | None = Field(default=None, description="The pod that converts the dataset.")
    train: StageSettings | None = Field(default=None, description="The pods that train.")
    export: StageSettings | None = Field(default=None, description="The pod that makes the adapter.")
    merge: StageSettings | None = Field(default=None, description="The pod that merges.")
    evaluate: StageSettings | None = Field(default=None, description="The pod that judges.")
    demo: StageSettings | None = Field(default=None, description="The pods that serve the demo.")

    def of(self, stage: Stage) -> StageSettings:
        return getattr(self, stage.value) or StageSettings()


class ImagePullSecret(Contract):
    """A Secret to pull images with."""

    name: DnsName = Field(description="Name of the Secret.")
