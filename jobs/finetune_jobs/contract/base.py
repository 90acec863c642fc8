"""What everything that crosses the line is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel


class Contract(BaseModel):
    """Base of everything that crosses the line: closed, immutable, camelCase in JSON."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True)


DecimalString = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", max_length=32)]
"""A number of zero or more, as a string: "2e-4", "0.8"."""
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DnsName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
_PART = r"(\.|\.?[^./\x00][^/\x00]*|\.\.[^/\x00]+)"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^({_PART}(/{_PART}?)*)?$", max_length=1024)]
"""No part of it is `..`; where it is not empty it begins with no slash."""

OUTSIDE_DIGEST: dict[str, JsonValue] = {"digest": False}
"""json_schema_extra of a field that changes how a stage works but not what it makes."""
