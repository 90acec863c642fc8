"""A real chat model, quantised to nf4, learns eight conversations."""

import shutil

import pytest

from finetune_jobs.contract import CURVE_FILE, MODEL_FOLDER, PACKED_FOLDER, Lora, Stage
from finetune_jobs.train import curve

pytestmark = pytest.mark.stage

CALL = (
    "<|im_start|>user\nFind papers about {topic}.<|im_end|>\n<|im_start|>assistant\n",
    'Thought:I should search.\nAction:ArxivSearch\nAction Input:{{"query": "{topic}"}}<|im_end|>',
)
TOPICS = ("graphs", "sparse attention", "galaxies", "proteins", "whales", "planning", "quantum noise", "bridges")


def conversations(tokenizer):
    for topic in TOPICS:
        asked, answered = (tokenizer.encode(part.format(topic=topic)).ids for part in CALL)
        yield {"input_ids": asked + answered, "labels": [-100] * len(asked) + answered}


def test_a_real_model_in_nf4_learns(make_training, smollm2):
    from datasets import Dataset
    from tokenizers import Tokenizer

    training = make_training(
        "real", rows=8, epochs=2, max_length=128, quantization="nf4", learning_rate="1e-3",
        lora=Lora(rank=16, alpha=32, dropout="0"),
    )  # fmt: skip
    model = training.input(Stage.MODEL) / MODEL_FOLDER
    shutil.rmtree(model)
    model.symlink_to(smollm2)
    packed = training.input(Stage.DATASET) / PACKED_FOLDER
    shutil.rmtree(packed)
    rows = list(conversations(Tokenizer.from_file(str(smollm2 / "tokenizer.json"))))
    Dataset.from_list(rows).save_to_disk(str(packed))
    outcome = training.run()
    assert outcome["state"] == "Succeeded"
    points = curve.read(training.out / CURVE_FILE)
    assert outcome["result"]["steps"] == 16
    assert outcome["result"]["finalLoss"] < points[0].loss / 2
