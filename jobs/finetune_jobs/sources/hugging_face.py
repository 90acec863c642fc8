"""A repository of the Hugging Face Hub, or of a mirror that speaks its API (HF_ENDPOINT).

The revision is resolved to a commit first, and only that commit is read. The access token comes from
the file that FINETUNE_TOKEN_FILE names or from HF_TOKEN; it is handed to huggingface_hub and to
nothing else.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from finetune_jobs.contract import DatasetRequest, HuggingFaceSource, Source
from finetune_jobs.errors import MachineTrouble, StageError, UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources.arrival import Watching, folder_bytes
from finetune_jobs.sources.digests import Meter, sha256_of_file
from finetune_jobs.sources.fetched import Fetched
from finetune_jobs.sources.files import Selection
from finetune_jobs.sources.space import require_space
from finetune_jobs.sources.token import HUB_TOKEN_CURE, access_token

log = logging.getLogger(__name__)

PARALLEL_FILES = 4


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size: int
    """Bytes."""
    sha256: str | None
    """Of a file that lies in git-lfs."""
    blob: str | None
    """git's SHA-1 of any other file."""


@dataclass(frozen=True)
class Repository:
    """What is asked of the hub, and how."""

    asked: HuggingFaceSource
    kind: str
    """model or dataset, as huggingface_hub's repo_type."""
    token: str | None
    endpoint: str | None


def bring(source: Source, room: Room, into: Path, selection: Selection) -> Fetched:
    """Download what is wanted, several files at once, going on with what an earlier run left."""
    asked = source.hugging_face
    if asked is None:
        raise ValueError("not a huggingFace source")
    kind = "dataset" if isinstance(room.request, DatasetRequest) else "model"
    repository = Repository(asked, kind, access_token(), os.environ.get("HF_ENDPOINT"))
    commit, license_name, files = ask(repository)
    description = f"huggingFace {asked.repo} at {commit[:12]}"
    names, others = selection.choose([file.name for file in files], description)
    chosen = [file for file in files if file.name in set(names)]
    require_space(into, sum(file.size for file in chosen) - folder_bytes(into), description)
    download_all(repository, commit, chosen, into, room)
    verify_all(chosen, into, room)
    return Fetched(into, description, tuple(names), commit, license_name, left_out=others)


def ask(repository: Repository) -> tuple[str, str | None, list[RemoteFile]]:
    """Commit, licence and files of the revision."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=repository.endpoint, token=repository.token or False)
    asked = repository.asked
    info = translated(
        repository,
        lambda: api.repo_info(asked.repo, revision=asked.revision, repo_type=repository.kind, files_metadata=True),
    )
    card = info.card_data or {}
    files = [
        RemoteFile(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in info.siblings or []
    ]
    found = card.get("license")
    return str(info.sha), found if isinstance(found, str) else None, files


def download_all(repository: Repository, commit: str, files: Sequence[RemoteFile], into: Path, room: Room) -> None:
    """Each file gets its name only when huggingface_hub has all its bytes; a part stays in `.cache`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()

    def download(file: RemoteFile) -> None:
        asked = repository.asked
        drop_if_short(into / file.name, file.size)
        log.info("downloading %s", file.name)
        translated(
            repository,
            lambda: hf_hub_download(
                asked.repo, file.name, repo_type=repository.kind, revision=commit, local_dir=into,
                endpoint=repository.endpoint, token=repository.token or False,
            ),
        )  # fmt: skip

    meter = Meter(room, sum(file.size for file in files), "downloading")
    with Watching(into, meter), ThreadPoolExecutor(PARALLEL_FILES) as pool:
        try:
            list(pool.map(download, sorted(files, key=lambda file: -file.size)))
        finally:
            pool.shutdown(cancel_futures=True)


def drop_if_short(path: Path, size: int) -> None:
    """huggingface_hub takes a file with the right name as whole; one that someone cut is not."""
    if path.is_file() and path.stat().st_size != size:
        path.unlink()


def verify_all(files: Sequence[RemoteFile], into: Path, room: Room) -> None:
    """Compare every file with the digest that the hub gives for the commit."""
    meter = Meter(room, sum(file.size for file in files), "checking")
    for file in files:
        path = into / file.name
        whole = path.stat().st_size == file.size
        if whole and file.sha256 is not None:
            whole = sha256_of_file(path, meter) == file.sha256
        elif whole and file.blob is not None:
            whole = git_blob_id(path) == file.blob
        if not whole:
            path.unlink()
            raise MachineTrouble(
                "DownloadCorrupt",
                f"{file.name} arrived with other bytes than the hub says it has.",
                "It was removed; run the same job again to download it anew.",
            )
    shutil.rmtree(into / ".cache", ignore_errors=True)


def git_blob_id(path: Path) -> str:
    """SHA-1 that git gives a file with these bytes."""
    body = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def translated(repository: Repository, call: Callable[[], Any]) -> Any:
    """Run a call of huggingface_hub; its errors become sentences that say what to write instead."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from requests import RequestException

    try:
        return call()
    except GatedRepoError:
        raise gated(repository) from None
    except RepositoryNotFoundError:
        raise not_found(repository) from None
    except RevisionNotFoundError:
        raise UserMistake(
            "RevisionMissing",
            f"{repository.asked.repo} has no revision {repository.asked.revision!r}.",
            "Write a branch, tag or commit that the repository's page lists; main is the usual one.",
        ) from None
    except LocalEntryNotFoundError as error:
        raise unreachable(repository, error.__cause__ or error) from None
    except HfHubHTTPError as error:
        raise refused(repository, error.response.status_code) from None
    except RequestException as error:
        raise unreachable(repository, error) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise MachineTrouble(
            "DownloadCorrupt",
            f"A file of {repository.asked.repo} arrived with another size than the hub says it has.",
            "Run the same job again to download it anew.",
        ) from None


def gated(repository: Repository) -> UserMistake:
    repo = repository.asked.repo
    if repository.token is None:
        return UserMistake(
            "Gated",
            f"{repo} is gated: its authors give access to users who ask for it, and no token was given.",
            f"Ask for access on the repository's page, then {HUB_TOKEN_CURE}.",
        )
    return UserMistake(
        "Gated",
        f"{repo} is gated, and the owner of the given token has no access to it.",
        "Ask for access on the repository's page with the token's account, and let the token read gated repositories.",
    )


def not_found(repository: Repository) -> UserMistake:
    repo, kind = repository.asked.repo, repository.kind
    cure, private = "Check the spelling of owner/name", f"if it is private, {HUB_TOKEN_CURE}"
    return UserMistake(
        "RepositoryMissing",
        f"The hub has no {kind} {repo}" + (", or it is private." if repository.token is None else " for this token."),
        f"{cure}; {private}." if repository.token is None else f"{cure} and the token's rights.",
    )


def refused(repository: Repository, status: int) -> StageError:
    repo = repository.asked.repo
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return MachineTrouble(
            "HubTrouble", f"The hub answered {status} for {repo}.", "Run the same job again later; it goes on."
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return UserMistake(
            "TokenRefused", f"The hub does not know the given token ({repo}).", f"To be let in, {HUB_TOKEN_CURE}."
        )
    return UserMistake(
        "AccessRefused", f"The hub answered {status} for {repo}.", "Check the repository and what the token may read."
    )


def unreachable(repository: Repository, error: BaseException) -> MachineTrouble:
    """The error's class alone: its text may hold the request's headers."""
    return MachineTrouble(
        "Network",
        f"{repository.endpoint or 'The Hugging Face Hub'} could not be reached for {repository.asked.repo} "
        f"({type(error).__name__}).",
        "Check this machine's network and proxy, or set HF_ENDPOINT to a mirror; then run again: it goes on.",
    )
