"""``finetune run | plan | validate | status | logs``: a FineTuneJob on this machine, without a cluster.

Imports light things only: a run that finds everything made must be quick to say so.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from finetune_jobs.contract import ExitCode, Stage
from finetune_operator.api import JobFile, SpecError, nearest, read_job
from finetune_operator.lifecycle.attempts import pause_before_next
from finetune_operator.local.demo import HIGHEST_PORT, PORT, Address
from finetune_operator.local.disk import disk_failure
from finetune_operator.local.displays import display_for
from finetune_operator.local.events import CannotRun, Display
from finetune_operator.local.interruption import Interruption
from finetune_operator.local.preflight import check_one_machine, check_port, unseen_changes, volumes_for
from finetune_operator.local.process import STAGE_COMMAND, Surroundings
from finetune_operator.local.runner import Runner
from finetune_operator.local.tables import plan_lines, status_lines
from finetune_operator.local.volumes import parse_volume
from finetune_operator.local.workspace import StageFolder
from finetune_operator.plan import Plan, make_plan

WORKSPACE_VARIABLE = "FINETUNE_WORKSPACE"
EXIT_CODES = """\
exit codes:
  0    done (Ctrl-C at an open demo is its normal end)
  64   the job or the command can't succeed as written; the sentence says what to write instead
  75   this machine's trouble: disk, memory, network; the same command goes on
  130  interrupted; what is made is saved, the same command goes on
"""


class Refused(Exception):
    """The command can't be carried out; one sentence a line."""


@dataclass(frozen=True)
class Settings:
    """What tests replace."""

    stage_command: Sequence[str] = STAGE_COMMAND
    pause: Callable[[int], float] = pause_before_next


@dataclass(frozen=True)
class Job:
    """A job's file, read and planned."""

    file: Path
    read: JobFile
    plan: Plan
    workspace: Path


class Parser(argparse.ArgumentParser):
    """Ends with the contract's exit code instead of 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USER_MISTAKE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    said = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(said)
    arguments.said = said
    try:
        code: int = arguments.command(arguments, settings or Settings())
        sys.stdout.flush()
    except Refused as refused:
        print(refused, file=sys.stderr)
        return ExitCode.USER_MISTAKE
    except BrokenPipeError:  # the reader has enough, as in `finetune logs ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.MACHINE_TROUBLE
    except OSError as error:
        exit_code, failure = disk_failure(error)
        print(f"{failure.message} {failure.cure}", file=sys.stderr)
        return exit_code
    return code


def parser() -> Parser:
    top = Parser(prog="finetune", description="Take a chat model and a dataset to a served agent, on this machine.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    run = add(commands, "run", run_command, "make what is missing, then serve the demo", epilog=EXIT_CODES)
    run.add_argument("--until", type=stage, metavar="STAGE", help=f"stop after this stage: {', '.join(Stage)}")
    run.add_argument("--no-demo", action="store_true", help="stop before the demo")
    run.add_argument("--json", action="store_true", help="one JSON object a line on stdout (docs/cli.md)")
    run.add_argument(
        "--volume", type=volume, action="append", default=[], metavar="CLAIM=FOLDER",
        help="where a PersistentVolumeClaim lies on this machine; a folder of its name beside FILE needs no mention",
    )  # fmt: skip
    run.add_argument("--port", type=port, default=PORT, help=f"the demo's port (default: {PORT})")
    run.add_argument("--host", default=Address.host, help=f"the demo's address (default: {Address.host})")
    add(commands, "plan", plan_command, "say what a run would start, why, and what it would take from before")
    add(commands, "validate", validate_command, "check the job's file")
    add(commands, "status", status_command, "say how far the job is")
    logs = add(commands, "logs", logs_command, "print a stage's log")
    logs.add_argument("stage", type=stage, metavar="STAGE", help=", ".join(Stage))
    return top


def add(
    commands: Any, name: str, command: Callable[[argparse.Namespace, Settings], int], text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A command with what all of them have: the file and the workspace."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("file", type=Path, metavar="FILE", help="YAML with one FineTuneJob and the ConfigMaps it names")
    made.add_argument(
        "--workspace", type=Path, default=Path(os.environ.get(WORKSPACE_VARIABLE) or "workspace"), metavar="DIR",
        help=f"folder of all results (default: ${WORKSPACE_VARIABLE}, else ./workspace)",
    )  # fmt: skip
    made.set_defaults(command=command)
    return made


def stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no stage; {nearest(text, [stage.value for stage in Stage])}"
        ) from None


def volume(text: str) -> tuple[str, Path]:
    try:
        return parse_volume(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write a number from 1 to {HIGHEST_PORT}")
    return int(text)


def read(arguments: argparse.Namespace) -> Job:
    """The job's file; Refused with every problem in it."""
    file: Path = arguments.file
    try:
        job = read_job(file.read_text(encoding="utf-8"))
        plan = make_plan(job.job, job.config_maps)
    except FileNotFoundError:
        raise Refused(f"{file}: there is no such file; write the path of a FineTuneJob's YAML") from None
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}; write the path of a file that can be read") from None
    except UnicodeDecodeError:
        raise Refused(f"{file}: this is not text in UTF-8; write the path of a FineTuneJob's YAML") from None
    except SpecError as error:
        raise Refused("\n".join(f"{file}: {problem}" for problem in error.problems)) from None
    return Job(file, job, plan, arguments.workspace.expanduser().resolve())


def run_command(arguments: argparse.Namespace, settings: Settings) -> int:
    job = read(arguments)
    until = last_stage(job, arguments)
    display = display_for(sys.stdout, sys.stderr, as_json=arguments.json)
    try:
        with Interruption() as interruption:
            runner = Runner(
                job.plan, job.workspace, display, interruption, until,
                environments={planned.stage: environment(job, planned.stage, display) for planned in job.plan.stages},
                address=Address(arguments.host, arguments.port),
                again=shlex.join(["finetune", *arguments.said]),
                pause=settings.pause,
            )  # fmt: skip
            prepare(runner, dict(arguments.volume), job.file.resolve().parent, settings)
            return runner.run()
    finally:
        display.close()


def prepare(runner: Runner, volumes: Mapping[str, Path], beside: Path, settings: Settings) -> None:
    """Refuse what can be refused before anything starts."""
    try:
        check_one_machine(runner)
        check_port(runner)
        folders = volumes_for(runner, volumes, beside)
        for sentence in unseen_changes(runner, volumes, beside):
            runner.display.say(sentence)
    except CannotRun as error:
        raise Refused(str(error)) from None
    runner.surroundings = replace(Surroundings(), command=settings.stage_command, volumes=folders)


def last_stage(job: Job, arguments: argparse.Namespace) -> Stage:
    until: Stage = arguments.until or Stage.DEMO
    if arguments.until is not None and job.plan.of(until) is None:
        has = ", ".join(planned.stage for planned in job.plan.stages)
        raise Refused(f"--until {until}: this job has no such stage; write one of {has}")
    return Stage.EVALUATE if arguments.no_demo and until is Stage.DEMO else until


def environment(job: Job, of: Stage, display: Display) -> dict[str, str]:
    """What the spec gives a stage; Secrets are the cluster's, so here their values come from the caller."""
    said = {}
    for variable in job.read.job.spec.stages.of(of).env:
        if variable.value is not None:
            said[variable.name] = variable.value
        elif variable.name not in os.environ:
            display.say(f"{of}: {variable.name} comes from a Secret in a cluster; here set it before the command.")
    return said


def plan_command(arguments: argparse.Namespace, _: Settings) -> int:
    job = read(arguments)
    for line in plan_lines(job.plan, job.workspace):
        print(line)
    return ExitCode.DONE


def validate_command(arguments: argparse.Namespace, _: Settings) -> int:
    job = read(arguments)
    stages = ", ".join(planned.stage for planned in job.plan.stages)
    print(f"{job.file}: valid; {job.read.job.metadata.name} has the stages {stages}")
    return ExitCode.DONE


def status_command(arguments: argparse.Namespace, _: Settings) -> int:
    job = read(arguments)
    for line in status_lines(job.plan, job.workspace):
        print(line)
    return ExitCode.DONE


def logs_command(arguments: argparse.Namespace, _: Settings) -> int:
    job = read(arguments)
    planned = job.plan.of(arguments.stage)
    if planned is None:
        raise Refused(f"{job.file}: this job has no {arguments.stage} stage")
    log = StageFolder(job.workspace, planned.stage, planned.digest).log_if_there()
    if log is None:
        raise Refused(
            f"{planned.stage} {planned.digest} has no log in {job.workspace}; `finetune run` writes one as it starts it"
        )
    with log.open(encoding="utf-8", errors="replace") as text:
        for line in text:
            print(line, end="")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
