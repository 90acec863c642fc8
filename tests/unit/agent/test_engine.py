"""One model in memory: the same answer alone, in a batch and streamed; a stop that stops; a queue that is fair."""

import threading

import pytest

from finetune_jobs.agent.engine import Engine, Sampling, until
from finetune_jobs.agent.prompt import Message
from finetune_jobs.errors import UserMistake

SYSTEM = Message(role="system", content="You answer. " * 6)
QUESTIONS = ["a?", "who wrote this and when?", "你好", "x" * 40, "please search the report"]


def conversation(question: str) -> list[Message]:
    return [SYSTEM, Message(role="user", content=question)]


def alone(engine: Engine, question: str, tokens: int = 24) -> str:
    """By transformers alone: no cache of ours, no padding."""
    import torch

    ids = torch.tensor([engine.tokens(conversation(question))])
    out = engine.model.generate(ids, max_new_tokens=tokens, do_sample=False, attention_mask=torch.ones_like(ids))
    return engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_batch_answers_as_each_question_alone(engine: Engine):
    expected = [alone(engine, question) for question in QUESTIONS]
    assert len(set(expected)) > 1
    assert engine.complete([conversation(q) for q in QUESTIONS], max_new_tokens=24) == expected


def test_one_new_token_attends_as_in_transformers(engine: Engine, tiny):
    """Two query heads share keys here; one row is padded in its midst, as a batch after a shared prefix is."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3 * 21).reshape(3, 21) % 300
    mask = torch.ones_like(ids)
    mask[1, 5:9] = 0
    found = []
    for model in (engine.model, AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)):
        with torch.inference_mode():
            cache = model(ids[:, :20], attention_mask=mask[:, :20]).past_key_values
            found.append(model(ids[:, 20:], attention_mask=mask, past_key_values=cache).logits)
    assert engine.model.config._attn_implementation != model.config._attn_implementation
    torch.testing.assert_close(*found)


def test_more_questions_than_a_batch_keep_their_order(engine: Engine):
    questions = [f"{'z' * (i % 7)} {i}" for i in range(20)]
    answers = engine.complete([conversation(q) for q in questions], max_new_tokens=8)
    assert answers == [alone(engine, q, 8) for q in questions]


def test_no_questions_have_no_answers(engine: Engine):
    assert engine.complete([], max_new_tokens=8) == []


def test_a_stream_says_the_same_and_again_from_its_cache(engine: Engine):
    for _ in range(2):
        assert "".join(engine.stream(conversation("a?"), Sampling(24))) == alone(engine, "a?")


def test_a_prompt_seen_before_is_not_computed_again(tiny):
    engine = Engine(tiny, "qwen_chat", device="cpu", dtype="float32")
    seen: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    list(engine.stream(conversation("first question"), Sampling(2)))
    first = seen[0]
    seen.clear()
    list(engine.stream(conversation("other"), Sampling(2)))
    assert first == len(engine.tokens(conversation("first question")))
    assert 0 < seen[0] < len(engine.tokens([SYSTEM]))


def test_stop_ends_within_a_token(engine: Engine):
    stop, forwards = threading.Event(), []

    def count(*_: object) -> None:
        forwards.append(1)
        if len(forwards) == 3:
            stop.set()

    hook = engine.model.register_forward_hook(count)
    try:
        list(engine.stream(conversation("a?"), Sampling(200), stop))
    finally:
        hook.remove()
    assert len(forwards) == 3


def test_closing_the_stream_ends_the_generation(engine: Engine):
    stream = engine.stream(conversation("a?"), Sampling(400))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "generate"]
    assert engine.complete([conversation("a?")], max_new_tokens=4) == [alone(engine, "a?", 4)]


def test_one_who_waits_sees_the_place_and_can_give_up(engine: Engine):
    held = engine.queue.enter()
    stop, places = threading.Event(), []

    def waiting(ahead: int) -> None:
        places.append(ahead)
        stop.set()

    assert list(engine.stream(conversation("a?"), Sampling(4), stop, waiting)) == []
    held.leave()
    assert places == [1]


def test_sampling_is_off_unless_asked_for(engine: Engine, monkeypatch):
    monkeypatch.setattr(engine.model.generation_config, "do_sample", True)
    monkeypatch.setattr(engine.model.generation_config, "temperature", 5.0)
    assert len({"".join(engine.stream(conversation("b?"), Sampling(12))) for _ in range(4)}) == 1
    hot = Sampling(12, temperature=5.0)
    assert len({"".join(engine.stream(conversation("b?"), hot)) for _ in range(4)}) > 1


def test_a_conversation_longer_than_the_model_is_refused(engine: Engine):
    with pytest.raises(UserMistake) as caught:
        list(engine.stream(conversation("y 1 " * 400)))
    assert caught.value.failure.reason == "ConversationTooLong"
    assert "Clear the conversation" in caught.value.failure.cure


def test_a_failure_inside_the_model_reaches_the_reader_and_frees_the_queue(engine: Engine, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(engine.model, "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(engine.stream(conversation("a?"), Sampling(4)))
    assert engine.complete([conversation("a?")], max_new_tokens=4) == [alone(engine, "a?", 4)]


def test_nobody_is_asked_for_remote_code(tiny, tmp_path):
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("open('ran', 'w')")
    with pytest.raises((ValueError, KeyError)):
        Engine(folder, "qwen_chat", device="cpu")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["ab", "cd"], (), ["ab", "cd"]),
        (["ab<e", "nd>cd"], ("<end>",), "ab"),
        (["<end>"], ("<end>",), ""),
        (["a<en", "d"], ("<end>",), "a<end"),
        (["x<b>y<a>"], ("<a>", "<b>"), "x"),
    ],
)
def test_text_ends_before_the_first_stop_text(pieces, stops, expected):
    found = list(until(pieces, stops))
    assert found == expected or "".join(found) == expected
