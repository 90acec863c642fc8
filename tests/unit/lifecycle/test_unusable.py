"""What becomes of a job that can't be carried out: it is told in words that fit, and nothing recorded is lost."""

from dataclasses import replace

from tests.unit.lifecycle.looks import NOW, UP_TO_TRAIN, look

from finetune_jobs.contract import Failure
from finetune_operator.lifecycle.decide import decide
from finetune_operator.lifecycle.unusable import spec_failure, unusable


def test_of_many_problems_the_first_are_told_and_the_rest_counted():
    message = spec_failure([f"prompt {n} is wrong" for n in range(300)]).message
    assert "prompt 9 is wrong; and 290 more." in message
    assert "prompt 10" not in message


def test_one_problem_without_end_is_cut():
    assert len(spec_failure(["x" * 1_000_000]).message) < 1000


ENDLESS = Failure(reason="Long", message="x" * 100_000, cure="y")


def test_a_message_without_end_is_cut_to_what_the_api_server_takes():
    told = unusable(look().status, 1, ENDLESS, NOW).conditions
    told += decide(replace(look(**UP_TO_TRAIN), plan=None, problem=ENDLESS), NOW).status.conditions
    assert max(len(condition.message) for condition in told) == 32_768
