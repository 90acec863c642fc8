"""A git repository with large files by git-lfs, through the real `git` and `git-lfs`.

One revision is fetched, without history. The objects lie beside the files in `.<name>.git` until all
is there, so that an interrupted fetch goes on; git-lfs itself goes on inside a half-fetched file.
Credentials come from git's own helpers, from ~/.netrc, from the URL, or from FINETUNE_TOKEN_FILE, whose token
is offered to the URL's own server alone: not where that redirects to, nor to a git-lfs server elsewhere. What
git prints is masked before anyone reads it.
"""

import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from finetune_jobs.contract import GitSource, Source
from finetune_jobs.errors import MachineTrouble, StageError, UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources import programs
from finetune_jobs.sources.arrival import Watching, folder_bytes
from finetune_jobs.sources.digests import Meter, sha256_of_file
from finetune_jobs.sources.fetched import Fetched
from finetune_jobs.sources.files import Selection
from finetune_jobs.sources.space import require_space
from finetune_jobs.sources.token import TOKEN_CURE, TOKEN_FILE, access_token, masked

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:.+\n)*?oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
POINTER_BYTES = 1024
"""A pointer is shorter than this, says git-lfs's specification."""
LONG = {"ls-remote", "fetch", "lfs", "checkout"}
"""Commands of git that can take more than a moment."""
ARGUMENT_BYTES = 100_000
"""Linux takes 128 KiB at most (MAX_ARG_STRLEN)."""
REFUSED = "FINETUNE_TOKEN_REFUSED"
TOKEN_HELPER = (
    f'!f() {{ case "$1" in erase) touch "${REFUSED}" ;; '
    f'get) test -e "${REFUSED}" || printf "username=token\\npassword=%s\\n" "$(cat "${TOKEN_FILE}")" ;; esac; }}; f'
)
"""A credential helper that hands the token file's content to git alone, until a server refuses it: git-lfs would offer
it for ever. REFUSED names the file that says so."""

USER_MISTAKES = (
    (r"Cannot find any of the requested objects|Object does not exist|Not found.*object|\[404\].*[Oo]bject",
     "LfsObjectMissing", "The server has no bytes for a git-lfs pointer of this revision.",
     "Push them by `git lfs push --all`, or name a revision whose large files are there."),
    (r"Authentication failed|could not read (Username|Password)|Permission denied|HTTP Basic|error: 40[13]",
     "AccessRefused", "The server lets nobody in without other credentials.",
     f"Check the URL and your rights; {TOKEN_CURE}, or give git a credential helper or an SSH key."),
    (r"not found|does not exist|not appear to be a git repository|error: 404",
     "RepositoryMissing", "There is no such repository, or it is private.", "Check source.git.url."),
)  # fmt: skip
"""What git says, the reason, what it means, what to do."""


@dataclass(frozen=True)
class Pointer:
    """What git-lfs leaves in a file's place until its bytes are fetched."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Checkout:
    """A work tree and, beside it, its git folder."""

    asked: GitSource
    tree: Path
    git_folder: Path

    def git(self, *arguments: str) -> str:
        """Run git here; its errors become sentences."""
        command = ["git", f"--git-dir={self.git_folder}", f"--work-tree={self.tree}", *arguments]
        environment = {
            **os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
            **configuration(self.asked, os.environ), REFUSED: str(self.git_folder / "token-refused"),
        }  # fmt: skip
        Path(environment[REFUSED]).unlink(missing_ok=True)
        tethered = not LONG.isdisjoint(arguments)
        try:
            done = programs.run(command, environment, self.tree, tethered=tethered)
        except FileNotFoundError:
            raise MachineTrouble("ToolMissing", "git is not installed here.", "Install git and git-lfs.") from None
        if done.returncode != 0:
            raise as_sentence(self.asked, done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="surrogateescape")


def configuration(asked: GitSource, environ: Mapping[str, str]) -> dict[str, str]:
    """The remote's address, and the token's helper for its server, as variables that git and git-lfs read.

    A command line is seen by everyone on the machine, and what stands in .git/config stays on the volume after a kill.
    """
    settings, variables = {"remote.origin.url": asked.url}, {}
    if environ.get(TOKEN_FILE) and access_token() is not None:
        variables[TOKEN_FILE] = str(Path(environ[TOKEN_FILE]).absolute())
        settings |= {f"credential.{server}.helper": TOKEN_HELPER for server in servers(asked.url)}
    before = int(environ.get("GIT_CONFIG_COUNT", "0"))
    for number, (name, value) in enumerate(settings.items(), before):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return {**variables, "GIT_CONFIG_COUNT": str(before + len(settings))}


def servers(url: str) -> list[str]:
    """Scheme, host and port that a token for this URL is meant for; none where git doesn't speak HTTP."""
    parts = urlsplit(url)
    return [f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"] if parts.scheme in {"http", "https"} else []


def as_sentence(asked: GitSource, said: str) -> StageError:
    url = masked(asked.url)
    last = masked(" ".join(said.split()))[-300:]
    for pattern, reason, meaning, cure in USER_MISTAKES:
        if re.search(pattern, said):
            return UserMistake(reason, f"{url}: {meaning} git said: {last}", cure)
    if "No space left" in said:
        return MachineTrouble(
            "DiskFull", f"The disk is full while fetching {url}.", "Free some space there, or use a larger volume."
        )
    if "is not a git command" in said:
        return MachineTrouble("ToolMissing", "git-lfs is not installed here.", "Install git-lfs, or set lfs: false.")
    return MachineTrouble("GitFailed", f"{url} could not be fetched. git said: {last}", "Run again; it goes on.")


def bring(source: Source, room: Room, into: Path, selection: Selection) -> Fetched:
    """Check out the wanted files of one revision and put the large ones in place of their pointers."""
    asked = source.git
    if asked is None:
        raise ValueError("not a git source")
    checkout = Checkout(asked, into.absolute(), into.absolute().with_name(f".{into.name}.git"))
    clear_locks(checkout.git_folder)
    commit = fetch_commit(checkout)
    description = f"git {masked(asked.url)} at {commit[:12]}"
    sizes = listed_files(checkout, commit)
    names, others = selection.choose(list(sizes), description)
    pointers = found_pointers(checkout, commit, {name: sizes[name] for name in names})
    if pointers and not asked.lfs:
        raise unfetched(pointers, "but source.git.lfs is false.", "Set source.git.lfs: true.")
    require_space(into, absent_bytes(checkout, {name: sizes[name] for name in names}, pointers), description)
    check_out(checkout, commit, names, pointers)
    refuse_outward_links(into, names)
    if pointers:
        fetch_large(checkout, commit, pointers, room)
    shutil.rmtree(checkout.git_folder)
    return Fetched(into, description, tuple(names), commit, left_out=others)


def clear_locks(git_folder: Path) -> None:
    """Remove the locks of a git that was killed; none lives, or the stage's own lock would not be ours."""
    for left in git_folder.rglob("*.lock"):
        left.unlink()


def fetch_commit(checkout: Checkout) -> str:
    """Fetch the revision, without history, and return the commit that it means."""
    if not (checkout.git_folder / "HEAD").exists():
        checkout.git("init", "--quiet")
    commit = resolve(checkout)
    try:
        checkout.git("cat-file", "-e", f"{commit}^{{tree}}")
    except StageError:
        log.info("fetching %s at %s", masked(checkout.asked.url), commit)
        checkout.git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", commit)
    checkout.git("update-ref", "--no-deref", "HEAD", commit)  # git-lfs reads .lfsconfig there
    return commit


def resolve(checkout: Checkout) -> str:
    """The commit of a branch, a tag or a commit's own name."""
    revision = checkout.asked.revision
    listed = [line.split("\t") for line in checkout.git("ls-remote", "origin").split("\n")[:-1]]
    commits = {name: commit for commit, name in listed}
    for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}", revision):
        if name in commits:
            return commits[name]
    if COMMIT.fullmatch(revision):
        return revision
    known = [
        name.removeprefix("refs/heads/").removeprefix("refs/tags/") for name in commits if not name.endswith("^{}")
    ]
    raise UserMistake(
        "RevisionMissing",
        f"{masked(checkout.asked.url)} has no revision {revision!r}; it has: {', '.join(known[:10])}.",
        "Write one of its branches or tags, or a whole commit of 40 digits.",
    )


def listed_files(checkout: Checkout, commit: str) -> dict[str, int]:
    """Bytes of each file in the commit, as git holds it; submodules are left out."""
    sizes = {}
    for line in checkout.git("ls-tree", "-r", "-l", "-z", commit).split("\0")[:-1]:
        about, name = line.split("\t", 1)
        _, kind, _, size = about.split()
        if kind == "blob":
            sizes[name] = int(size)
    return sizes


def found_pointers(checkout: Checkout, commit: str, sizes: dict[str, int]) -> dict[str, Pointer]:
    """Which of the files are pointers to large ones."""
    small = (name for name, size in sizes.items() if size < POINTER_BYTES)
    found = {name: pointer_at(checkout, commit, name) for name in small}
    return {name: pointer for name, pointer in found.items() if pointer is not None}


def absent_bytes(checkout: Checkout, sizes: dict[str, int], pointers: dict[str, Pointer]) -> int:
    """What the files take that are not in place yet, without the large ones' bytes that an earlier run has fetched.

    git's own objects have come by then: no server tells their size before.
    """
    whole = {**sizes, **{name: pointer.size for name, pointer in pointers.items()}}
    absent = sum(size for name, size in whole.items() if not has_size(checkout.tree / name, size))
    return max(0, absent - folder_bytes(checkout.git_folder / "lfs"))


def has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def check_out(checkout: Checkout, commit: str, names: Sequence[str], pointers: dict[str, Pointer]) -> None:
    """Write the wanted files, and leave a large file that is in place alone."""
    missing = [
        name for name in names if name not in pointers or not has_size(checkout.tree / name, pointers[name].size)
    ]
    with tempfile.NamedTemporaryFile(dir=checkout.git_folder) as listing:
        listing.write("\0".join(missing).encode(errors="surrogateescape"))
        listing.flush()
        literal = f"--pathspec-from-file={listing.name}"
        if missing:
            checkout.git(
                "--literal-pathspecs", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=",
                "-c", "filter.lfs.required=false", "checkout", "--quiet", "--force", "--pathspec-file-nul", literal,
                commit,
            )  # fmt: skip


def pointer_at(checkout: Checkout, commit: str, name: str) -> Pointer | None:
    """What stands at this name in the commit, if it is a pointer."""
    match = POINTER.fullmatch(checkout.git("cat-file", "blob", f"{commit}:{name}").encode(errors="surrogateescape"))
    return Pointer(match[1].decode(), int(match[2])) if match else None


def refuse_outward_links(tree: Path, names: Sequence[str]) -> None:
    """A link in a repository could show any file of this machine as the repository's own."""
    for name in names:
        path = tree / name
        if path.is_symlink() and not path.resolve().is_relative_to(tree.resolve()):
            raise UserMistake(
                "PathOutside",
                f"{name} in the repository is a link to {os.readlink(path)}, outside of it.",  # noqa: PTH115 (as written)
                "Replace the link by the file in the repository.",
            )


def fetch_large(checkout: Checkout, commit: str, pointers: dict[str, Pointer], room: Room) -> None:
    """Fetch by git-lfs what isn't in place yet; each object becomes its file by rename, so nothing is held twice."""
    absent = {name: pointer for name, pointer in pointers.items() if not in_place(checkout.tree / name, pointer)}
    objects = checkout.git_folder / "lfs"
    total = sum(pointer.size for pointer in absent.values())
    checkout.git("lfs", "install", "--local", "--skip-repo", "--force")
    meter = Meter(room, total, "downloading")
    with Watching(objects, meter):
        for globs in batches(map(literal_glob, absent)):
            checkout.git("lfs", "fetch", f"--include={','.join(globs)}", "--exclude=", "origin", commit)
    for name, pointer in absent.items():
        place(objects, checkout.tree / name, pointer)
    still = {name: pointer for name, pointer in pointers.items() if not in_place(checkout.tree / name, pointer)}
    if still:
        raise unfetched(
            still, "and its server did not send it.", "Push it by `git lfs push`, or leave it out of the repository."
        )


def batches(globs: Iterable[str]) -> Iterator[list[str]]:
    """As many at once as an argument may be long; at least one."""
    batch: list[str] = []
    length = 0
    for glob in globs:
        length += len(os.fsencode(glob)) + 1
        if batch and length > ARGUMENT_BYTES:
            yield batch
            batch, length = [], len(os.fsencode(glob)) + 1
        batch.append(glob)
    if batch:
        yield batch


def literal_glob(name: str) -> str:
    """git-lfs takes patterns and separates them by commas; what is special in either becomes any one character."""
    return "/" + re.sub(r"[][*?,\\!]", "?", name)


def in_place(path: Path, pointer: Pointer) -> bool:
    """Whether the file itself is there; only whole objects ever get this name."""
    return has_size(path, pointer.size) and not is_pointer(path)


def is_pointer(path: Path) -> bool:
    return path.stat().st_size < POINTER_BYTES and POINTER.fullmatch(path.read_bytes()) is not None


def place(objects: Path, path: Path, pointer: Pointer) -> None:
    held = objects / "objects" / pointer.sha256[:2] / pointer.sha256[2:4] / pointer.sha256
    if not held.exists():
        return
    if sha256_of_file(held) != pointer.sha256:
        held.unlink()
        raise MachineTrouble("DownloadCorrupt", f"{path.name} arrived broken.", "Run the same job again.")
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        os.link(held, draft)  # not renamed: a second file may have the same bytes
    except OSError:  # a file system without hard links
        shutil.copyfile(held, draft)
    draft.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
    draft.replace(path)


def unfetched(pointers: dict[str, Pointer], why: str, cure: str) -> UserMistake:
    name, pointer = next(iter(pointers.items()))
    return UserMistake(
        "LfsPointer",
        f"{name} is a git-lfs pointer to {pointer.size:,} bytes with SHA-256 {pointer.sha256}, {why}",
        cure,
    )
