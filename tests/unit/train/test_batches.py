"""Packed documents never see each other."""

import pytest

from finetune_jobs.train.batches import IGNORE_INDEX, collate

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=2, attn_implementation="sdpa", use_cache=False)  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def packed(*documents):
    ids = [token for document in documents for token in document]
    positions = [place for document in documents for place in range(len(document))]
    return {"input_ids": ids, "labels": ids, "position_ids": positions}


def logits(model, *rows):
    with torch.no_grad():
        return model(**collate(rows)["data"]).logits


def test_a_document_is_the_same_beside_any_neighbour(model):
    first, second, other = [3, 4, 5, 6], [7, 8, 9], [30, 31, 32, 33]
    beside = logits(model, packed(first, second))
    torch.testing.assert_close(beside[0, 4:], logits(model, packed(other, second))[0, 4:])
    torch.testing.assert_close(beside[0, 4:], logits(model, packed(second))[0])


def test_without_positions_that_restart_a_document_does_see_its_neighbour(model):
    """So that the test above can fail."""
    joined = packed([3, 4, 5, 6, 7, 8, 9])
    other = packed([30, 31, 32, 33, 7, 8, 9])
    assert not torch.allclose(logits(model, joined)[0, 4:], logits(model, other)[0, 4:])


def test_padding_changes_nothing(model):
    long, short = packed([3, 4, 5], [6, 7, 8]), packed([9, 10], [11])
    torch.testing.assert_close(logits(model, long, short)[1, :3], logits(model, short)[0])


def test_unpacked_rows_of_unequal_length_are_padded_without_loss(model):
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    data = collate(rows)["data"]
    assert data["labels"].tolist() == [[-100, 2, 3], [4, IGNORE_INDEX, IGNORE_INDEX]]
    assert data["attention_mask"].tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(logits(model, *rows)[1, :1], logits(model, rows[1])[0])
