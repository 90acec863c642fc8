"""The operator as a process, as a container would run it: started, killed, started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self
from urllib.request import ProxyHandler, build_opener

from tests.ports import free_port


class OperatorProcess:
    """Use as a context."""

    def __init__(self, kubeconfig: Path, folder: Path, *namespaces: str, **settings: str) -> None:
        self.port = free_port()
        self.log = folder / f"operator-{self.port}.log"
        self.restarts = 0
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_NAMESPACES": ",".join(namespaces),
            "FINETUNE_LEASE_NAME": f"operator-{self.port}",
            "FINETUNE_IDENTITY": "operator",
            "FINETUNE_HOST": "127.0.0.1",
            "FINETUNE_PORT": str(self.port),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator.cluster"], env=self.environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def start_if_dead(self) -> None:
        """What kubelet does."""
        if self.process is not None and self.process.poll() is not None:
            self.restarts += 1
            self.start()

    def ask(self, path: str) -> str:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read().decode()
