"""The gate before the demo."""

import pytest

from finetune_operator.lifecycle.gate import below_gate


@pytest.mark.parametrize(("reached", "gate"), [(0.8, 0.8), (1.0, 0.8), (0.0, 0.0), (0.0, None)])
def test_the_demo_moves_at_the_gate_and_above_and_without_one(reached, gate):
    assert below_gate({"tuned": {"validCalls": reached}}, gate) is None


def test_below_the_gate_the_sentence_has_both_numbers_and_says_what_to_change():
    failure = below_gate({"tuned": {"validCalls": 0.79}}, 0.8)
    assert failure.reason == "EvaluationBelowGate"
    assert failure.message.startswith(
        "The tuned model's rate of valid tool calls is 0.79, below spec.evaluation.minimumValidCalls 0.8;"
    )
    assert "lower spec.evaluation.minimumValidCalls" in failure.cure
