"""A model of 64 hidden units with ChatML's tokens: as fast as a test should be, and talking nonsense."""

from pathlib import Path

import pytest

from finetune_jobs.agent.engine import Engine

CORPUS = ["abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?{}\"'\n", "你好世界"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the model stage makes it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2TokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokens.train_from_iterator(CORPUS, trainer)
    tokenizer = Qwen2TokenizerFast(tokenizer_object=tokens, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine(tiny: Path) -> Engine:
    return Engine(tiny, "qwen_chat", device="cpu", dtype="float32")
