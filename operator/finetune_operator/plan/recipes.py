"""Built-in training values, as data."""

from dataclasses import dataclass

from finetune_jobs.contract import Lora
from finetune_operator.api.spec import Checkpoint, RecipeName


@dataclass(frozen=True)
class Recipe:
    """Values of `Training` that a spec may leave out; units as there."""

    epochs: int
    max_length: int
    pack: bool
    batch_size: int
    gradient_accumulation: int
    learning_rate: str
    warmup_ratio: str
    lora: Lora
    quantization: str
    deepspeed: str
    checkpoint: Checkpoint


RECIPES = {
    # The tutorial's config llama3_8b_instruct_qlora_agentflan_3e.
    RecipeName.QLORA: Recipe(
        epochs=3,
        max_length=4096,
        pack=True,
        batch_size=1,
        gradient_accumulation=16,
        learning_rate="2e-4",
        warmup_ratio="0.03",
        lora=Lora(rank=64, alpha=16, dropout="0.1"),
        quantization="nf4",
        deepspeed="zero2",
        checkpoint=Checkpoint(every_steps=500, keep=2),
    ),
    # A model of some hundred million parameters and a hundred rows, on the CPU.
    RecipeName.QLORA_SMALL: Recipe(
        epochs=1,
        max_length=640,
        pack=False,
        batch_size=1,
        gradient_accumulation=1,
        learning_rate="1e-3",
        warmup_ratio="0.1",
        lora=Lora(rank=16, alpha=32, dropout="0"),
        quantization="nf4",
        deepspeed="zero2",
        checkpoint=Checkpoint(every_steps=12, keep=2),
    ),
}
