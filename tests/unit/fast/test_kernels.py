"""The Triton kernels without a GPU: by Triton's interpreter, which must be on before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_kernels_agree_with_their_reference() -> None:
    file = Path(__file__).with_name("interpreted_kernels.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout
