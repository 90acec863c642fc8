"""Makes, while the example trains, what the tests on a cluster need after it: its programs, then the images.

    nice -n 19 python -m tests.ahead

It may fail or be ended at any point: those tests make what is missing, and tell why they can't.
"""

import tempfile
from pathlib import Path

from tests.cluster.release import run_image_builder
from tests.kubernetes.cluster import is_up
from tests.kubernetes.programs import SOURCES, program
from tests.kubernetes.store import store

if __name__ == "__main__":
    for name in SOURCES:
        program(name)
    run_image_builder().check_returncode()
    if not is_up():
        with tempfile.TemporaryDirectory() as folder, store(Path(folder)):
            run_image_builder("--cluster", folder).check_returncode()
