"""Makes, while the example trains, what the tests on a cluster need after it: its programs, then the images.

    nice -n 19 python -m tests.ahead

It may fail or be ended at any point: those tests make what is missing, and tell why they can't.
"""

from tests.cluster.release import run_image_builder
from tests.kubernetes.programs import SOURCES, program

if __name__ == "__main__":
    for name in SOURCES:
        program(name)
    run_image_builder().check_returncode()
