"""Rows to a batch of the fast path: where documents begin, what is supervised."""

import torch

from finetune_jobs.train.fast.batches import ROUND, collate


def row(labels: list[int], positions: list[int] | None = None) -> dict[str, list[int]]:
    made = {"input_ids": list(range(len(labels))), "labels": labels}
    return made if positions is None else {**made, "position_ids": positions}


def wanted(batch: dict) -> list[tuple[int, int]]:
    """(position, target) pairs, without what fills them up."""
    data = batch["data"]
    pairs = zip(data["positions"].tolist(), data["targets"].tolist(), strict=True)
    return [(position, target) for position, target in pairs if target != -100]


def test_a_position_is_supervised_when_the_next_token_has_a_label() -> None:
    assert wanted(collate([row([-100, -100, 7, 8]), row([-100, 5, -100, 6])])) == [(1, 7), (2, 8), (4, 5), (6, 6)]


def test_a_document_s_last_token_does_not_predict_the_next_document() -> None:
    assert wanted(collate([row([1, 2, 3, 4], [0, 1, 0, 1])])) == [(0, 2), (2, 4)]


def test_documents_are_counted_through_all_rows() -> None:
    data = collate([row([1, 2, 3, 4], [0, 1, 2, 0]), row([1, 2, 3, 4], [0, 1, 0, 1])])["data"]
    assert data["starts"].tolist() == [0, 3, 4, 6, 8]
    assert data["starts"].dtype == torch.int32
    assert data["longest"] == 3


def test_rows_of_one_document_need_no_boundaries() -> None:
    assert "starts" not in collate([row([1, 2, 3], [0, 1, 2]), row([1, 2, 3], [0, 1, 2])])["data"]
    assert "starts" not in collate([row([1, 2, 3]), row([1, 2])])["data"]


def test_padding_is_one_document_and_a_document_after_a_single_token_is_its_own() -> None:
    data = collate([row([1, 2, 3, 4, 5, -100, -100, -100], [0, 0, 1, 2, 3, 0, 0, 0])])["data"]
    assert data["starts"].tolist() == [0, 1, 5, 8]


def test_positions_are_filled_up_to_whole_tiles() -> None:
    for labels in ([-100, 1, 2], [-100, -100, -100]):
        data = collate([row(labels)])["data"]
        assert len(data["positions"]) == len(data["targets"]) == ROUND
