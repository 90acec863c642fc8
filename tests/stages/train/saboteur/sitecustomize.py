"""Breaks a training at an exact step: Python imports this in every process when the folder is on PYTHONPATH.

SABOTAGE is one of
    KILL:stage:13, KILL:torchrun:13, KILL:rank:13   SIGKILL to that process after step 13
    TERM:stage:13, TERM:torchrun:13, TERM:rank:13   SIGTERM after step 13
    write::16                                       SIGKILL of the rank with checkpoint 16 half written
    fill::3                                         the disk is filled after step 3
The ids of rank, torchrun and stage are left in SABOTAGE_PIDS.
"""

import json
import os
import signal
import time
from pathlib import Path

ROLES = ("rank", "torchrun", "stage")


def ancestors():
    """This process, torchrun that started it, and the stage that started that."""
    pids = [os.getpid()]
    for _ in ROLES[1:]:
        stat = Path(f"/proc/{pids[-1]}/stat").read_text(encoding="ascii")
        pids.append(int(stat.rpartition(")")[2].split()[1]))
    return dict(zip(ROLES, pids, strict=True))


def strike(kind, role, path):
    if kind == "fill":
        with (path.parent / "checkpoints" / "filler").open("wb") as file:
            while True:
                try:
                    file.write(b"\0" * 65536)
                    file.flush()
                except OSError:
                    return
    pids = ancestors()
    Path(os.environ["SABOTAGE_PIDS"]).write_text(json.dumps(pids), encoding="ascii")
    os.kill(pids[role], getattr(signal, f"SIG{kind}"))
    if kind == "KILL":
        signal.pause()  # until the death reaches this process
    while role == "stage" and not Path(os.environ["FINETUNE_RANKS_FOLDER"], "stop").exists():
        time.sleep(0.01)  # until the stage has passed the request on


def break_after_step(kind, role, step):
    from finetune_jobs.train import curve

    append = curve.append

    def append_and_strike(path, point):
        append(path, point)
        if point.step == step:
            strike(kind, role, path)

    curve.append = append_and_strike


def break_write(step):
    from finetune_jobs.train import checkpoints

    finish = checkpoints.finish

    def finish_or_die(folder, marker):
        if marker.step == step:
            for path in folder.glob("*.pt"):
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(folder, marker)

    checkpoints.finish = finish_or_die


if os.environ.get("SABOTAGE") and "RANK" in os.environ and os.environ["RANK"] == "0":
    sabotage, target, number = os.environ["SABOTAGE"].split(":")
    if sabotage == "write":
        break_write(int(number))
    else:
        break_after_step(sabotage, target, int(number))
