"""Why a stage would run."""

from datetime import UTC, datetime

import pytest

from finetune_jobs.contract import RESULT_FILE, Lora, Record, Stage, TrainRequest
from finetune_operator.local.reasons import differences, why_it_runs


def request(**changed):
    values = {
        "needs": {Stage.MODEL: "0" * 12}, "template": "qwen_chat", "epochs": 1, "max_length": 640, "batch_size": 1,
        "gradient_accumulation": 1, "learning_rate": "1e-3",
    }  # fmt: skip
    return TrainRequest.model_validate(values | changed)


def done(workspace, made, day=1, digest=None):
    moment = datetime(2026, 1, day, tzinfo=UTC)
    digest = digest or made.digest()
    record = Record(
        stage=Stage.TRAIN, digest=digest, request=made, started_at=moment, finished_at=moment, result={}
    )  # fmt: skip
    folder = workspace / "train" / digest
    folder.mkdir(parents=True)
    (folder / RESULT_FILE).write_text(record.to_json())


def why(workspace, now):
    return why_it_runs(workspace, Stage.TRAIN, now)


def test_an_empty_workspace_has_not_made_it_yet(tmp_path):
    assert why(tmp_path, request()) == "not made yet"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"learning_rate": "2e-3"}, "learningRate changed: 1e-3 -> 2e-3"),
        ({"lora": Lora(rank=8)}, "lora.rank changed: 64 -> 8"),
        ({"config": "lr = 1"}, "config changed: nothing -> lr = 1"),
        ({"epochs": 2, "seed": 7}, "epochs changed: 1 -> 2; seed changed: 42 -> 7"),
        ({"needs": {Stage.MODEL: "1" * 12}}, "follows a new model"),
        ({"needs": {Stage.MODEL: "1" * 12}, "epochs": 2}, "epochs changed: 1 -> 2; follows a new model"),
    ],
)
def test_the_reason_names_what_changed(tmp_path, changed, reason):
    done(tmp_path, request())
    assert why(tmp_path, request(**changed)) == reason


def test_the_newest_result_is_compared(tmp_path):
    done(tmp_path, request(learning_rate="1e-3"), day=1)
    done(tmp_path, request(learning_rate="2e-3"), day=3)
    done(tmp_path, request(learning_rate="3e-3"), day=2)
    assert why(tmp_path, request(learning_rate="4e-3")) == "learningRate changed: 2e-3 -> 4e-3"


def test_the_same_request_with_another_digest_was_made_by_another_version(tmp_path):
    done(tmp_path, request(), digest="f" * 12)
    assert why(tmp_path, request()) == "its program is newer than the result"


def test_a_checkpoint_is_gone_on_from(tmp_path):
    (tmp_path / "train" / request().digest() / "checkpoints" / "iter_12").mkdir(parents=True)
    assert why(tmp_path, request()) == "an earlier run was interrupted; goes on from its checkpoint"


def test_a_broken_result_is_passed_over(tmp_path):
    folder = tmp_path / "train" / ("e" * 12)
    folder.mkdir(parents=True)
    (folder / RESULT_FILE).write_text("{")
    assert why(tmp_path, request()) == "not made yet"


def test_a_long_value_is_cut():
    (sentence,) = differences({"config": "a"}, {"config": "b" * 1000})
    assert sentence == f"config changed: a -> {'b' * 60}..."
