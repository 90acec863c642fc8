"""``python -m finetune_jobs STAGE --request FILE --workspace DIR [--volume CLAIM=DIR]... [--outcome FILE]``

Runs one stage and ends with a code of `contract.ExitCode`. Two runs of the same stage in one workspace
meet at a lock: the second waits, then takes the first one's result.
"""

import argparse
import fcntl
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter, ValidationError

from finetune_jobs.contract import (
    LOCK_SUFFIX,
    OUTCOME_BYTES,
    RESULT_FILE,
    AnyRequest,
    Contract,
    ExitCode,
    Failure,
    Outcome,
    Record,
    Stage,
    State,
)
from finetune_jobs.errors import Interrupted, MachineTrouble, StageError, UserMistake
from finetune_jobs.hardware import require_given_gpus
from finetune_jobs.room import Room, clear_drafts, flush_tree, node_rank, read_record, stage_folder, write_atomically
from finetune_jobs.telling import told
from finetune_jobs.trouble import causes, of_system, trouble_in

log = logging.getLogger("finetune_jobs")

PROGRAMS = {
    Stage.MODEL: "finetune_jobs.model",
    Stage.DATASET: "finetune_jobs.dataset",
    Stage.TRAIN: "finetune_jobs.train",
    Stage.EXPORT: "finetune_jobs.export",
    Stage.MERGE: "finetune_jobs.merge",
    Stage.EVALUATE: "finetune_jobs.evaluate",
    Stage.DEMO: "finetune_jobs.demo",
}
"""Each module has ``run(request, room) -> its result``; it is imported only when its stage runs."""

SERVICES = {Stage.DEMO}
"""Served, not made: no lock, so that several can serve at once; no result, which the next run would take."""

WITHOUT_TORCH = {Stage.DATASET}
"""Stages that use transformers for its tokenizers alone: importing torch beside it costs 5 s and 600 MB."""

OWN_THREADS = {Stage.MERGE}
"""Stages whose threads each call the BLAS: it takes one thread a call, or they would wait for each other."""

SHAPING_PACKAGES = (
    "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "xtuner", "datasets", "tokenizers", "lagent",
)  # fmt: skip


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; children inherit it, so that it outlives this process as long as they run.

    Nodes that train together work on one folder at once: each but the first has a lock of its own.
    """
    node = f".node{node_rank()}" if node_rank() else ""
    with (folder.parent / f"{folder.name}{node}{LOCK_SUFFIX}").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another run works on %s; waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def installed_versions() -> dict[str, str]:
    found = {}
    for name in SHAPING_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_stage(request: AnyRequest, workspace: Path, volumes: dict[str, Path]) -> tuple[State, Record]:
    """Run the stage, or take the result that is there."""
    digest = request.digest()
    folder = stage_folder(workspace, request.stage, digest)
    folder.mkdir(parents=True, exist_ok=True)
    service = request.stage in SERVICES
    with nullcontext() if service else locked(folder):
        done = None if service else read_record(workspace, request.stage, digest)
        if done is not None:
            return State.REUSED, done
        if not service:
            clear_drafts(folder)
        require_given_gpus()
        started = datetime.now(UTC)
        program = importlib.import_module(PROGRAMS[request.stage])
        with told(folder, digest) if node_rank() == 0 else nullcontext():
            result: Contract = program.run(request, Room(workspace, request, folder, volumes))
        record = Record.of(request, result, started, installed_versions())
        if not service and node_rank() == 0:
            # After a loss of power a result must not stand for bytes that are gone.
            flush_tree(folder)
            write_atomically(folder / RESULT_FILE, record.to_json())
        return State.SUCCEEDED, record


def as_stage_error(error: BaseException) -> StageError:
    """Any end of a stage as one that says what to do."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, KeyboardInterrupt) or is_broken_wait(error):
        return Interrupted()
    return (
        of_system(error)
        or trouble_in(error)
        or MachineTrouble(
            "Unforeseen",
            f"{type(error).__name__}: {error}",
            "See the traceback in the stage's log; if it is not of your making, please report it.",
        )
    )


def is_broken_wait(error: BaseException) -> bool:
    """A wait of threading's that a signal broke off between taking its lock and giving it back."""
    about_locks = isinstance(error, RuntimeError) and str(error).endswith(("unlocked lock", "un-acquired lock"))
    return about_locks and any(isinstance(each, KeyboardInterrupt) for each in causes(error))


def cut_to_fit(outcome: Outcome) -> str:
    """The outcome as JSON of at most OUTCOME_BYTES: Kubernetes cuts a longer one in mid-sentence."""
    text = outcome.to_json()
    if len(text.encode()) <= OUTCOME_BYTES:
        return text
    if outcome.failure is not None:
        short = outcome.failure.model_copy(update={"message": outcome.failure.message[:1000] + " ..."})
        return outcome.model_copy(update={"failure": short}).to_json()
    scalars = {k: v for k, v in (outcome.result or {}).items() if not isinstance(v, list | dict)}
    return outcome.model_copy(update={"result": scalars}).to_json()


def read_request(path: Path, stage: Stage) -> AnyRequest:
    adapter: TypeAdapter[AnyRequest] = TypeAdapter(AnyRequest)
    try:
        request = adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserMistake("RequestInvalid", f"{path} does not exist.", "Give the request's file.") from None
    except ValidationError as error:
        raise UserMistake("RequestInvalid", f"{path}: {error}", "Make the request with `finetune plan`.") from None
    if request.stage != stage:
        raise UserMistake("RequestInvalid", f"{path} asks for {request.stage}.", f"Run that stage, not {stage}.")
    return request


def raise_keyboard_interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m finetune_jobs", description="Run one stage of a FineTuneJob.")
    parser.add_argument("stage", type=Stage, choices=list(Stage))
    parser.add_argument("--request", type=Path, required=True, help="the stage's request, JSON")
    parser.add_argument("--workspace", type=Path, required=True, help="folder that all stages share")
    parser.add_argument("--volume", action="append", default=[], metavar="CLAIM=DIR", help="where a claim is mounted")
    parser.add_argument("--outcome", type=Path, help="write how it ended here, such as /dev/termination-log")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, raise_keyboard_interrupt)
    stage: Stage = arguments.stage
    if stage in WITHOUT_TORCH and __name__ == "__main__":  # in a process of its own
        os.environ |= {"USE_TORCH": "0", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
    if stage in OWN_THREADS and __name__ == "__main__":
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    digest = ""
    try:
        volumes = {claim: Path(folder) for claim, _, folder in (v.partition("=") for v in arguments.volume)}
        request = read_request(arguments.request, stage)
        digest = request.digest()
        state, record = run_stage(request, arguments.workspace, volumes)
        outcome = Outcome(stage=stage, digest=digest, state=state, result=record.result)
        code = ExitCode.DONE
    except BaseException as error:  # every end is told, SystemExit of a library included
        if not isinstance(error, StageError | KeyboardInterrupt):
            # by logging, which survives a log on a full disk; print_exc would end the program with another code
            log.info("the stage ended by", exc_info=error)
        failed = as_stage_error(error)
        state = State.INTERRUPTED if isinstance(failed, Interrupted) else State.FAILED
        failure: Failure = failed.failure
        log.error("%s: %s %s", failure.reason, failure.message, failure.cure)  # noqa: TRY400 - the traceback is printed above
        outcome = Outcome(stage=stage, digest=digest, state=state, failure=failure)
        code = failed.exit_code
    if arguments.outcome is not None:
        try:
            arguments.outcome.write_text(cut_to_fit(outcome), encoding="utf-8")
        except OSError as error:  # the exit code says the most of it
            log.warning("the outcome could not be written: %s", error)
    return code


if __name__ == "__main__":
    sys.exit(main())
