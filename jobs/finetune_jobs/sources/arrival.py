"""How much has arrived, for programs and libraries that tell nobody."""

import os
import threading
from pathlib import Path

from finetune_jobs.sources.digests import Meter

LOOK_EVERY = 0.5  # seconds between two looks


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under the folder, of whole ones and of parts."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:  # a part was given its last name meanwhile
                continue
    return total


class Watching:
    """Reports the bytes in a folder while someone else fills it."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self.folder, self.meter = folder, meter
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        while not self.done.wait(LOOK_EVERY):
            self.meter.reach(min(folder_bytes(self.folder), self.meter.total))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
