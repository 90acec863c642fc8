"""``python -m tests.stages.train.ranks FOLDER=PROCESSES...``: trains by each folder's config, one after the other.

Its ranks are what torchrun starts, but as copies of one process that has XTuner's and DeepSpeed's imports behind it.
"""

import os
import sys
from pathlib import Path

from tests.ports import free_port

from finetune_jobs.contract import CONFIG_FILE
from finetune_jobs.train import rank
from finetune_jobs.train.layout import DEEPSPEED_FILE

ARGUMENTS = [CONFIG_FILE, "--work-dir", ".", "--deepspeed", DEEPSPEED_FILE, "--launcher", "pytorch"]


def start(folder: Path, number: int, processes: int, port: int) -> int:
    """Id of the process that is this rank."""
    if pid := os.fork():
        return pid
    os.chdir(folder)
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCH_EXTENSIONS_DIR": str(folder),
    }  # fmt: skip
    rank.main(ARGUMENTS)
    os._exit(0)


def train(folder: Path, processes: int) -> None:
    port = free_port()
    ranks = [start(folder, number, processes, port) for number in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
    if any(codes):
        sys.exit(f"{folder}: the ranks ended with {codes}")


if __name__ == "__main__":
    os.environ |= rank.DEFAULTS
    rank.import_all()
    for given in sys.argv[1:]:
        where, _, count = given.rpartition("=")
        train(Path(where), int(count))
