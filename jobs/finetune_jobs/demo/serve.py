"""The demo stage: checks what the page needs, then serves it until asked to stop."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from finetune_jobs.agent.tools import make_executor
from finetune_jobs.contract import (
    DEMO_HOST_VARIABLE,
    DEMO_PORT_VARIABLE,
    MERGED_FOLDER,
    MODEL_FOLDER,
    DemoRequest,
    DemoResult,
    Stage,
)
from finetune_jobs.demo.settings import VARIABLE, Settings, Side
from finetune_jobs.errors import MachineTrouble, UserMistake, of_told
from finetune_jobs.room import Room
from finetune_jobs.templates import template

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORT = "8501"
SHOWN = (Stage.DATASET, Stage.TRAIN, Stage.EVALUATE)
"""Stages whose output the second page shows, where the job has them."""
GRACE_SECONDS = 10
"""Streamlit ends within about a second of SIGTERM; after these it is killed."""


def run(request: DemoRequest, room: Room) -> DemoResult:
    """Serve until SIGTERM or SIGINT; the page is open when /_stcore/health answers.

    Raises UserMistake for a missing input, an unknown template or tool and a port in use; MachineTrouble when the
    server ends by itself, such as by weights that can't be loaded where they are first (DEMO_LOAD_FIRST_VARIABLE).
    """
    settings = settings_of(request, room)
    template(settings.template)
    make_executor(settings.tools)
    host, port = os.environ.get(DEMO_HOST_VARIABLE, HOST), port_of(os.environ.get(DEMO_PORT_VARIABLE, PORT))
    check_free(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("opening the demo at %s", url)
    serve(
        [host, str(port)], {**os.environ, **thread_settings(len(settings.models)), VARIABLE: settings.model_dump_json()}
    )
    return DemoResult(url=url)


def settings_of(request: DemoRequest, room: Room) -> Settings:
    tuned = room.input(Stage.MERGE) / MERGED_FOLDER
    models = {Side.TUNED: tuned}
    if request.compare_with_base:
        models = {Side.BASE: room.input(Stage.MODEL) / MODEL_FOLDER, **models}
    made = {
        stage: room.input(stage) if stage in request.needs else None
        for stage in (Stage.DATASET, Stage.TRAIN, Stage.EVALUATE)
    }
    return Settings(
        title=request.title,
        template=request.template,
        tools=request.tools,
        models={side: folder.resolve() for side, folder in models.items()},
        merge=tuned.parent,
        **made,
    )


def port_of(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 2**16:
        return int(text)
    raise UserMistake("PortInvalid", f"{text!r} is no port.", "Give a number from 1 to 65535, such as --port 8502.")


def check_free(host: str, port: int) -> None:
    """Refuse an address that can't be listened at before anything is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserMistake(
            "PortInUse",
            f"The demo can't listen at port {port} of {host}: {error.strerror}.",
            f"End what listens there, or ask for another port: --port {port + 1 if port + 1 < 2**16 else PORT}.",
        ) from None


def thread_settings(models: int) -> Mapping[str, str]:
    """Threads for each model, since both answer at once; threads that spin while they wait would starve the other."""
    cores = len(os.sched_getaffinity(0))
    settings = {"OMP_NUM_THREADS": str(max(1, cores // models)), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    return {name: os.environ.get(name, value) for name, value in settings.items()}


def serve(address: list[str], environment: Mapping[str, str]) -> None:
    """Run the server until it is asked to stop through this process."""
    with TemporaryFile() as told:
        command = [sys.executable, "-m", "finetune_jobs.demo.server", *address, str(os.getpid()), str(told.fileno())]
        with subprocess.Popen(command, env=dict(environment), cwd=Path.home(), pass_fds=[told.fileno()]) as server:
            try:
                code = server.wait()
            except KeyboardInterrupt:
                log.info("asked to stop")
                stop(server)
                return
        told.seek(0)
        said = told.read()
    if said:
        raise of_told(json.loads(said))
    if code != -signal.SIGTERM:
        raise MachineTrouble("DemoEnded", f"The demo's server ended by itself with code {code}.", "See the log above.")


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
