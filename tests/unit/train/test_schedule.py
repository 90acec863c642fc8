"""How rows, processes and accumulation become optimizer steps and XTuner's micro-iterations."""

import pytest

from finetune_jobs.train.schedule import Schedule


def schedule(**changes):
    defaults = {"rows": 100, "world_size": 1, "batch_size": 1, "accumulation": 1, "epochs": 1, "warmup_ratio": 0.03}
    return Schedule(**{**defaults, **changes})


@pytest.mark.parametrize(
    ("changes", "steps", "iterations"),
    [
        ({}, 100, 100),
        ({"epochs": 3}, 300, 300),
        ({"accumulation": 16}, 7, 112),
        ({"batch_size": 8}, 13, 13),
        ({"world_size": 8, "accumulation": 2}, 7, 14),
        ({"rows": 3, "accumulation": 16}, 1, 16),
        ({"rows": 6172, "epochs": 3, "accumulation": 16}, 1158, 18528),
    ],
)
def test_steps_are_rounded_up_so_that_every_row_is_learned_from(changes, steps, iterations):
    assert (schedule(**changes).steps, schedule(**changes).iterations) == (steps, iterations)


@pytest.mark.parametrize("rows", [2, 3, 34, 67, 1000])
def test_a_warmup_is_never_one_step_long(rows):
    assert schedule(rows=rows).warmup_steps != 1


def test_a_warmup_is_its_part_of_the_steps_rounded_up():
    assert schedule(rows=100, accumulation=4, warmup_ratio=0.1).warmup_steps == 3


def test_a_warmup_leaves_at_least_one_step_to_learn_at_the_full_rate():
    made = schedule(rows=4, warmup_ratio=1.0)
    assert made.warmup_steps < made.steps


def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation():
    one, two = schedule(accumulation=2), schedule(world_size=2)
    assert (one.steps, one.warmup_steps) == (two.steps, two.warmup_steps)
