"""The Triton kernels, run by Triton's interpreter, against their plain PyTorch twins.

fp32 only: the interpreter does not round to bfloat16. `test_kernels` runs this file in a process of its own:
TRITON_INTERPRET=1 python -m pytest tests/unit/fast/interpreted_kernels.py
"""

import pytest
import torch

from finetune_jobs.train.fast import kernels, reference

T, WIDTH, RANK = 7, 40, 16
SEED, P = 1234567, 0.25


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def wide(*shape: int) -> torch.Tensor:
    """A view into a wider matrix, poisoned: what is not written shows."""
    return torch.full((shape[0], shape[1] + 24), float("nan"))[:, 8 : 8 + shape[1]]


def both(name: str, make) -> None:
    """Call the function of both modules on equal arguments; every tensor must end up equal."""
    ours, theirs = make(), make()
    getattr(kernels, name)(*ours[0], **ours[1])
    getattr(reference, name)(*theirs[0], **theirs[1])
    values = list(zip([*ours[0], *ours[1].values()], [*theirs[0], *theirs[1].values()], strict=True))
    for got, wanted in values:
        if isinstance(got, torch.Tensor):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
            if name != "cross_entropy":  # where -0.0 means dropped
                assert torch.equal(torch.signbit(got) & (got == 0), torch.signbit(wanted) & (wanted == 0))


@pytest.mark.parametrize("dropped", [False, True])
def test_norm_forward(dropped: bool) -> None:
    both(
        "norm_forward",
        lambda: ([rand(T, WIDTH), rand(1, WIDTH)[0], wide(T, WIDTH), wide(T, WIDTH) if dropped else None, 1e-5, SEED,
                  P if dropped else 0.0], {}),
    )  # fmt: skip


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("low", ["none", "plain", "dropped"])
def test_norm_backward(residual: bool, low: str) -> None:
    def make():
        mask = torch.empty(T, WIDTH)
        reference.dropout(rand(T, WIDTH), mask, SEED, P)
        return [rand(T, WIDTH + 3)[:, 3:], rand(T, WIDTH), rand(1, WIDTH)[0], 1e-5,
                rand(T, WIDTH + 1)[:, 1:] if residual else None, rand(T, WIDTH + 2)[:, 2:] if low != "none" else None,
                mask if low == "dropped" else None, P if low == "dropped" else 0.0, wide(T, WIDTH)], {}  # fmt: skip

    both("norm_backward", make)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_rotate(back: bool, turned: bool) -> None:
    def make():
        source = rand(2, 3, 5, 8).transpose(1, 2) if turned else rand(2, 5, 3, 8)
        return [source, wide(10, 24), rand(10, 4), rand(11, 4)[1:]], {"back": back}

    both("rotate", make)


@pytest.mark.parametrize("dropped", [False, True])
def test_swiglu_forward(dropped: bool) -> None:
    def make():
        joint = rand(T, 2 * WIDTH + 5)
        hd = wide(T, WIDTH) if dropped else None
        return [joint[:, :WIDTH], joint[:, WIDTH : 2 * WIDTH], wide(T, WIDTH), hd, SEED, P if dropped else 0.0], {}

    both("swiglu_forward", make)


@pytest.mark.parametrize("low", ["none", "plain", "dropped"])
def test_swiglu_backward(low: str) -> None:
    def make():
        joint, hd = rand(T, 2 * WIDTH + 5), torch.empty(T, WIDTH)
        reference.dropout(rand(T, WIDTH), hd, SEED, P)
        return [rand(T, WIDTH), joint[:, :WIDTH], joint[:, WIDTH : 2 * WIDTH],
                rand(T, WIDTH + 1)[:, 1:] if low != "none" else None, hd if low == "dropped" else None,
                P if low == "dropped" else 0.0], {}  # fmt: skip

    both("swiglu_backward", make)


@pytest.mark.parametrize("plus", [False, True])
def test_rank_update(plus: bool) -> None:
    def make():
        base, added = rand(T, WIDTH + 4)[:, 4:], rand(T, WIDTH + 9)[:, 9:] if plus else None
        return [base, rand(T, RANK), rand(WIDTH, RANK).t(), wide(T, WIDTH), added], {}

    both("rank_update", make)


@pytest.mark.parametrize("dropped", [False, True])
def test_add_masked(dropped: bool) -> None:
    def make():
        xd = torch.empty(T, WIDTH)
        reference.dropout(rand(T, WIDTH), xd, SEED, P)
        return [rand(T, WIDTH + 4)[:, 4:], rand(T, WIDTH), xd if dropped else None, P if dropped else 0.0], {}

    both("add_masked", make)


def test_dropout() -> None:
    both("dropout", lambda: ([rand(T, WIDTH), wide(T, WIDTH), SEED, P], {}))


def test_scaled_copy() -> None:
    both("scaled_copy", lambda: ([rand(T, WIDTH + 1)[:, 1:], wide(T, WIDTH), 0.3], {}))


def test_cross_entropy() -> None:
    target = torch.tensor([3, -100, 0, WIDTH - 1, 5, -100, 39])
    both("cross_entropy", lambda: ([rand(T, WIDTH), target.clone(), torch.empty(T), torch.tensor(0.2)], {}))


def test_the_cross_entropy_gradient_is_autograds() -> None:
    target = torch.tensor([3, -100, 0, WIDTH - 1, 5, -100, 39])
    logits = rand(T, WIDTH).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(logits, target)
    wanted.backward()
    ours, losses = rand(T, WIDTH), torch.empty(T)
    reference.cross_entropy(ours, target, losses, torch.tensor(1 / 5))
    torch.testing.assert_close(losses.sum(), wanted.detach())
    torch.testing.assert_close(ours, logits.grad)


def test_dropout_keeps_the_share_it_should_and_other_elements_with_another_seed() -> None:
    first = reference.kept((1000, 100), SEED, P, torch.device("cpu"))
    second = reference.kept((1000, 100), SEED + 1, P, torch.device("cpu"))
    for mask in (first, second):
        assert abs(mask.float().mean().item() - (1 - P)) < 0.006  # four standard deviations of 100,000 draws
    assert abs((first & second).float().mean().item() - (1 - P) ** 2) < 0.0065  # independent
    neighbours = (first[:, 1:] & first[:, :-1]).float().mean().item()
    assert abs(neighbours - (1 - P) ** 2) < 0.0065


def test_a_dropped_element_is_told_from_a_kept_zero() -> None:
    out = torch.empty(T, WIDTH)
    reference.dropout(torch.zeros(T, WIDTH), out, SEED, P)
    assert torch.equal(reference.is_kept(out), reference.kept((T, WIDTH), SEED, P, torch.device("cpu")))
