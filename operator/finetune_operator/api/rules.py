"""Rules across fields, as the API server checks them (CEL), beside the pydantic validators that say the same.

``make test-api`` proves that both agree on the same objects. Every message says what to write instead.
"""

from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from finetune_jobs.contract import CREDENTIALS_IN_SIGHT, WITH_CREDENTIALS, DecimalString, GitSource, Source
from finetune_operator.api.forms import FORMS, NAME_LENGTH, JobName, pattern_of
from finetune_operator.api.pods import (
    ALL_TAINTS,
    DEVICES_IN_LIMITS,
    EXISTS_HAS_NO_VALUE,
    HUGE_PAGES,
    KNOWN_RESOURCE,
    ONLY_NO_EXECUTE,
    OWN_RESOURCES,
    WHOLE,
    WHOLE_DEVICES,
    WITHIN_LIMITS,
    EnvVar,
    Resources,
    Toleration,
)
from finetune_operator.api.spec import CONFIG_SAYS, FP8_IS_FAST, ROOM, Evaluation, Spec, Storage, Training


@dataclass(frozen=True)
class Rule:
    rule: str
    """CEL over ``self`` (and ``oldSelf``)."""
    message: str


CONFIGS_OWN = tuple(map(to_camel, CONFIG_SAYS))


def count(*fields: str) -> str:
    return f"[{', '.join(f'has(self.{field})' for field in fields)}].filter(given, given).size()"


def matches(pattern: str, text: str = "self") -> str:
    escaped = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return f"{text}.matches('{escaped}')"


def each_resource(field: str, rule: str) -> str:
    return f"!has(self.{field}) || self.{field}.all(name, {rule})"


DEVICE = "name.contains('/')"
KNOWN = f"name in {list(OWN_RESOURCES)} || name.startsWith('{HUGE_PAGES}') || {DEVICE}"
EXISTS = "(has(self.operator) && self.operator == 'Exists')"
LIMITED = "(has(self.limits) && name in self.limits)"

RULES: dict[type[BaseModel], tuple[Rule, ...]] = {
    Source: (
        Rule(
            f"{count('huggingFace', 'git', 'volume', 'pypi')} == 1",
            "a source is exactly one of huggingFace, git, volume, pypi; write one and leave the others out",
        ),
    ),
    Training: (
        Rule("!(has(self.deepspeed) && has(self.deepspeedConfig))", "write deepspeed or deepspeedConfig, not both"),
        Rule(
            f"!has(self.config) || {count(*CONFIGS_OWN)} == 0",
            f"config says these by itself, so leave out {', '.join(CONFIGS_OWN)} and write them in the config",
        ),
        Rule(
            "!has(self.fp8) || !self.fp8 || ((!has(self.fast) || self.fast) && !has(self.config) && "
            "!has(self.deepspeedConfig) && (!has(self.deepspeed) || self.deepspeed != 'zero3'))",
            FP8_IS_FAST,
        ),
    ),
    Evaluation: (
        Rule(
            "!(has(self.prompts) && has(self.promptsFrom))",
            "write prompts (a built-in set) or promptsFrom (your own), not both",
        ),
    ),
    Toleration: (
        Rule(f"!{EXISTS} || !has(self.value) || self.value == ''", EXISTS_HAS_NO_VALUE),
        Rule(f"{EXISTS} || has(self.key)", ALL_TAINTS),
        Rule("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')", ONLY_NO_EXECUTE),
    ),
    EnvVar: (Rule("has(self.value) != has(self.valueFrom)", "write value or valueFrom, one of the two"),),
    Resources: (
        *(Rule(each_resource(field, KNOWN), KNOWN_RESOURCE) for field in ("requests", "limits")),
        *(
            Rule(each_resource(field, f"!{DEVICE} || self.{field}[name].matches('^{WHOLE}$')"), WHOLE_DEVICES)
            for field in ("requests", "limits")
        ),
        Rule(
            each_resource("requests", f"!{DEVICE} || {LIMITED} && self.requests[name] == self.limits[name]"),
            DEVICES_IN_LIMITS,
        ),
        Rule(
            each_resource(
                "requests",
                f"!({LIMITED} && isQuantity(self.requests[name]) && isQuantity(self.limits[name])) || "
                "quantity(self.requests[name]).compareTo(quantity(self.limits[name])) <= 0",
            ),
            WITHIN_LIMITS,
        ),
    ),
    Storage: (
        Rule(
            "!has(self.claimName) || !(has(self.size) || has(self.storageClassName) || has(self.accessModes))",
            "beside claimName leave out size, storageClassName and accessModes: a new claim has such",
        ),
    ),
    Spec: (
        Rule(
            "has(self.dataset) != has(self.adapter)",
            "write dataset (to train an adapter) or adapter (a ready one), one of the two",
        ),
        Rule(
            "!(has(self.adapter) && has(self.training))",
            "with a ready adapter nothing is trained; leave out training or adapter",
        ),
        Rule(
            "!has(self.training) || !has(self.training.quantization) || self.training.quantization != 'none' || "
            "!has(self.merge) || !has(self.merge.baseWeights) || self.merge.baseWeights != 'nf4'",
            "the adapter is trained beside unquantised weights (training.quantization: none), so leave out "
            "merge.baseWeights",
        ),
        Rule(
            "!has(self.training) || !has(self.training.nodes) || self.training.nodes <= 1 || (has(self.storage) && "
            "(has(self.storage.claimName) || (has(self.storage.accessModes) && "
            "'ReadWriteMany' in self.storage.accessModes)))",
            "training.nodes above 1 needs a workspace that all nodes write to; "
            "write storage.accessModes: [ReadWriteMany] or storage.claimName",
        ),
    ),
}


def same(field: str, unsaid: str) -> str:
    """CEL: spec.storage says the same as before; `unsaid` is what leaving the field or the whole storage out means.

    (Shorter by optionals, whose cost the API server can't estimate.)
    """
    now, before = "self.spec.storage", "oldSelf.spec.storage"
    new, old = f"{now}.{field}", f"{before}.{field}"
    has_new, has_old = f"has({now}) && has({new})", f"has({before}) && has({old})"
    kept = f"({has_old} ? {new} == {old} : {new} == {unsaid})"
    return f"({has_new} ? {kept} : (!({has_old}) || {old} == {unsaid}))"


SAME_WORKSPACE = " && ".join(
    (same("claimName", "''"), same("storageClassName", "''"), same("accessModes", "['ReadWriteOnce']"))
)

NO_WORKSPACE_YET = ["WorkspaceUnbound", "ClaimMissing"]
"""Reasons of a stage whose pod waits for a claim: their cures are edits of spec.storage."""
UNWRITTEN = (
    "((!has(stage.attempts) || stage.attempts == 0) && stage.state in ['Pending', 'Waiting', 'Suspended']) || "
    f"(stage.state == 'Running' && has(stage.reason) && stage.reason in {NO_WORKSPACE_YET})"
)
"""CEL: the stage has written nothing to the workspace, and nothing that it needs lies there."""

ROOT_RULES = (
    Rule(
        f"size(self.metadata.name) <= {NAME_LENGTH}",
        f"write a name of at most {NAME_LENGTH} characters: the names of the stages' Jobs are made from it",
    ),
    Rule(matches(pattern_of(JobName), "self.metadata.name"), FORMS[pattern_of(JobName)]),
    Rule(
        f"!has(oldSelf.status) || !has(oldSelf.status.stages) || oldSelf.status.stages.all(stage, {UNWRITTEN}) || "
        f"{SAME_WORKSPACE}",
        "a stage has written to this workspace, so storage stays as it is (but for size and reclaimPolicy); "
        "write a new FineTuneJob to use another workspace",
    ),
)
"""Over the whole object; the last one speaks of a change."""

NO_NUMBER = f"!{matches(pattern_of(DecimalString))}"
"""Then the rule of its form speaks, and a conversion would only add an error of its own."""

VALUE_RULES: dict[tuple[type[BaseModel], str], Rule] = {
    (GitSource, "url"): Rule(f"!{matches(WITH_CREDENTIALS)}", CREDENTIALS_IN_SIGHT),
    (Training, "learning_rate"): Rule(
        f"{NO_NUMBER} || double(self) > 0.0 && double(self) <= 0.1",
        'write a learning rate above 0 and at most "0.1" as a string, such as "2e-4"',
    ),
    (Storage, "size"): Rule("self.matches('[1-9]')", ROOM),
}
FRACTION_RULE = Rule(
    f"{NO_NUMBER} || double(self) <= 1.0", 'write a fraction between "0" and "1" as a string, such as "0.8"'
)
"""Of every field of type Fraction."""
