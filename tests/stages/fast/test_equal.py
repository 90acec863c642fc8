"""The fast path computes what plain Transformers and peft compute, here in fp32 by its PyTorch reference path."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel

from finetune_jobs.train.batches import collate as plain_collate
from finetune_jobs.train.fast import reference
from finetune_jobs.train.fast.batches import collate
from finetune_jobs.train.fast.model import Mode

FAMILIES = ("llama", "llama3", "smollm2", "mistral", "qwen2")
VOCABULARY = 97


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.norm() > 0, f"{name} has no gradient: the test would see nothing"
        assert (got[name] - gradient).norm() <= tolerance * gradient.norm(), name


def step(model: Any, data: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(**data).loss
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", [Mode(), Mode(recomputed_layers=1)], ids=["kept", "one layer run again"])
def test_loss_and_gradients_are_those_of_the_plain_path(
    make: Callable[..., Any], rows: list[dict[str, torch.Tensor]], family: str, mode: Mode
) -> None:
    """Packed rows with padding: transformers keeps documents apart by positions, the fast path by its own mask."""
    loss, grads = step(make(family, mode), collate(rows)["data"])
    plain = make(family, None)
    plain_data = plain_collate(rows)["data"]
    wanted_loss, wanted = step(plain, plain_data)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert_equal(grads, wanted)


@pytest.mark.parametrize("rank", [1, 8, 24], ids=lambda rank: f"rank {rank}")
def test_ranks_that_no_matrix_instruction_has(
    make: Callable[..., Any], rows: list[dict[str, torch.Tensor]], rank: int
) -> None:
    _, grads = step(make("llama", Mode(), rank), collate(rows)["data"])
    _, wanted = step(make("llama", None, rank), plain_collate(rows)["data"])
    assert_equal(grads, wanted)


def test_labels_without_prepared_targets(make: Callable[..., Any]) -> None:
    ids = torch.randint(0, VOCABULARY, (2, 20))
    labels = ids.masked_fill(torch.arange(20) < 6, -100)
    _, grads = step(make("llama", Mode()), {"input_ids": ids, "labels": labels})
    _, wanted = step(make("llama", None), {"input_ids": ids, "labels": labels})
    assert_equal(grads, wanted)


def test_no_document_sees_its_neighbour(make: Callable[..., Any], rows: list[dict[str, torch.Tensor]]) -> None:
    """Other tokens in the first document leave loss and gradients of the second as they are."""
    row = dict(rows[0])
    row["labels"] = row["labels"].clone()
    row["labels"][:20] = row["labels"][29:] = -100
    other = dict(row)
    other["input_ids"] = row["input_ids"].clone()
    other["input_ids"][:20] = (row["input_ids"][:20] + 1) % VOCABULARY
    loss, grads = step(make("llama", Mode()), collate([row])["data"])
    same_loss, same = step(make("llama", Mode()), collate([other])["data"])
    assert same_loss == loss
    assert all(torch.equal(same[name], grads[name]) for name in grads)
    without = {k: v for k, v in collate([row])["data"].items() if k not in ("starts", "longest")}
    leaked, _ = step(make("llama", Mode()), without)
    assert leaked != loss, "without its boundaries the document must see its neighbour, or this test shows nothing"


class Masked(torch.nn.Module):
    """peft's dropout, but with the fast path's mask."""

    def __init__(self, seed: int, p: float) -> None:
        super().__init__()
        self.seed, self.p = seed, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = reference.kept((x.shape[0] * x.shape[1], x.shape[2]), self.seed, self.p, x.device)
        return x * mask.view(x.shape) / (1 - self.p)


SITES = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}


@pytest.mark.parametrize("recomputed", [0, 2])
def test_dropout_is_peft_s_with_one_mask_for_layers_that_share_their_input(
    make: Callable[..., Any], rows: list[dict[str, torch.Tensor]], recomputed: int
) -> None:
    p = 0.2
    fast = make("llama", Mode(recomputed_layers=recomputed, dropout=p))
    torch.manual_seed(7)
    loss, grads = step(fast, collate(rows)["data"])
    torch.manual_seed(7)
    batch = SimpleNamespace(seed=int(torch.randint(0, 2**31, ()).item()))
    plain = make("llama", None)
    layers = fast.base_model.model.fast_path.layers
    for layer, module in zip(layers, plain.base_model.model.model.layers, strict=True):
        for name, part in module.named_modules():
            site = SITES.get(name.rpartition(".")[2])
            if site is not None:
                part.lora_dropout["default"] = Masked(layer.seed(batch, site), p)
    wanted_loss, wanted = step(plain, plain_collate(rows)["data"])
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert_equal(grads, wanted)


def test_fp8_stays_near(make: Callable[..., Any], rows: list[dict[str, torch.Tensor]]) -> None:
    loss, grads = step(make("llama", Mode(store="fp8")), collate(rows)["data"])
    wanted_loss, wanted = step(make("llama", None), plain_collate(rows)["data"])
    assert loss == pytest.approx(wanted_loss, rel=0.005)
    for name, gradient in wanted.items():
        cosine = torch.nn.functional.cosine_similarity(grads[name].flatten(), gradient.flatten(), 0)
        assert cosine > 0.98, name


def test_a_second_backward_pass_is_refused(make: Callable[..., Any], rows: list[dict[str, torch.Tensor]]) -> None:
    """It works in place: a second one would give wrong gradients."""
    loss = make("llama", Mode())(**collate(rows)["data"]).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="runs once"):
        loss.backward()


@pytest.mark.parametrize("store", ["resident", "fp8"])
def test_frozen_weights_are_held_once(
    make: Callable[..., Any], rows: list[dict[str, torch.Tensor]], store: str
) -> None:
    """The parameters stay the objects that they were (DeepSpeed keeps them all) and own no memory of their own."""
    model = make("llama", Mode(store=store))
    before = dict(model.named_parameters())
    model(**collate(rows)["data"]).loss.backward()
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] for name in before)
    path = model.base_model.model.fast_path
    for layer in path.layers:
        for group in layer.groups:
            for linear in group.linears:
                weight = linear.base_layer.weight
                if store == "fp8":
                    assert weight.numel() == 0
                else:
                    assert weight.untyped_storage().data_ptr() == group.matrix.untyped_storage().data_ptr()


def test_the_saved_adapter_gives_plain_peft_the_same_logits(
    make: Callable[..., Any], rows: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    fast = make("llama", Mode())
    optimizer = torch.optim.AdamW([p for p in fast.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        fast(**collate(rows)["data"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    fast.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make("llama", None).unload(), tmp_path).eval()
    ids = rows[0]["input_ids"][None]
    assert torch.allclose(loaded(input_ids=ids).logits, fast.eval()(input_ids=ids).logits, atol=1e-6)
    data = plain_collate(rows[1:])["data"]
    fast_loss = fast.train()(**collate(rows[1:])["data"]).loss.item()
    assert loaded(**data).loss.item() == pytest.approx(fast_loss, rel=1e-6)


def test_outside_training_the_model_is_transformers_own(make: Callable[..., Any]) -> None:
    ids = torch.randint(0, VOCABULARY, (1, 12))
    fast, plain = make("llama", Mode()), make("llama", None)
    fast(input_ids=ids, labels=ids).loss.backward()  # the layers are gathered now
    assert torch.equal(fast.eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)
    assert fast.generate(input_ids=ids, max_new_tokens=3, do_sample=False).shape == (1, 15)
