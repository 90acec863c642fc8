"""What the tests of all stages share: processes that have a stage's imports behind them."""

import multiprocessing
from collections.abc import Callable

import pytest

THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
IMPORTS = ["finetune_jobs.__main__", "peft", "transformers.models.auto.modeling_auto",
           "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama"]  # fmt: skip


@pytest.fixture(scope="session")
def fork() -> Callable[..., int]:
    """Runs Python text, to which its arguments are `given`, in a process of its own; its exit code, or below zero the
    signal that killed it.

    One process imports what takes most of a stage's seconds and computes nothing; each of these begins as its copy.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)

    def run(text: str, *given: str) -> int:
        with pytest.MonkeyPatch.context() as patched:
            for name, value in THREADS.items():
                patched.setenv(name, value)
            process = context.Process(target=exec, args=(text, {"given": list(given)}))
            process.start()
        process.join()
        return process.exitcode

    return run
