"""One model in memory: many prompts at once for the judge, one streamed answer at a time for people.

Generation is ``transformers``' own `generate`; lagent's `HFTransformerCasualLM` calls .cuda() and a sampling loop
that transformers 4.57 no longer has.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jobs.agent.prefixes import Prefixes, common_prefix
from finetune_jobs.agent.prompt import Message, prompt_tokens
from finetune_jobs.agent.turnstile import Turnstile
from finetune_jobs.errors import UserMistake
from finetune_jobs.processor import cpu_dtype
from finetune_jobs.templates import template as template_of

BATCH = 16
"""Prompts generated side by side in `Engine.complete`."""
PATIENCE = 0.2
"""Seconds between two looks at one's place in the queue and at the stop button."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token each time (greedy)."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability."""


class Engine:
    """Tokenizer and weights of one model folder, loaded once, used by one call at a time in the order of asking.

    Raises UserMistake for an unknown template; transformers' own errors for a folder that it can't load.
    """

    def __init__(self, folder: Path, template: str, *, device: str | None = None, dtype: str | None = None) -> None:
        """`device` is cuda where there is one, else cpu; `dtype` is bfloat16 but on CPUs that don't multiply in it."""
        self.template = template_of(template)
        self.queue = Turnstile()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = getattr(torch, dtype or (cpu_dtype() if self.device == "cpu" else "bfloat16"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=precision, local_files_only=True, trust_remote_code=False
        )
        if self.device == "cpu" and self.model.config._attn_implementation == "sdpa":  # noqa: SLF001 - no public name
            from finetune_jobs.agent.cpu_attention import register

            self.model.set_attn_implementation(register())
        self.model.to(self.device).eval()
        self._prefixes = Prefixes()
        self._stop_tokens, self._stop_texts = self._stops()

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        return prompt_tokens(self.tokenizer, self.template, messages)

    def complete(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int) -> list[str]:
        """Greedy answers to all conversations, in their order.

        What all prompts have in common (the system prompt) is computed once; rows of unlike length are padded
        between that and their own part, where the attention mask hides it.
        """
        prompts = [self.tokens(messages) for messages in conversations]
        if len(prompts) == 1:
            return ["".join(self.stream(conversations[0], Sampling(max_new_tokens)))]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers = [""] * len(prompts)
        with self.queue.turn():
            shared = _shared_prefix(prompts) if self._shareable else 0
            for start in range(0, len(prompts), BATCH):
                rows = by_length[start : start + BATCH]
                texts = self._complete_batch([prompts[i] for i in rows], shared, max_new_tokens)
                for row, text in zip(rows, texts, strict=True):
                    answers[row] = text
        return answers

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling = Sampling(),
        stop: threading.Event | None = None,
        waiting: Callable[[int], None] | None = None,
    ) -> Iterator[str]:
        """The answer piece by piece. `stop` ends it within a token; closing the iterator does so too.

        `waiting` is told how many go first (0 at one's turn). Raises UserMistake when the conversation is longer than
        the model takes.
        """
        stop = stop or threading.Event()
        tokens = self.tokens(messages)
        sampling = self._fit(tokens, sampling)
        place = self.queue.enter()
        try:
            while not place.wait(PATIENCE):
                if stop.is_set():
                    return
                if waiting:
                    waiting(place.ahead)
            if waiting:
                waiting(0)
            yield from until(self._generate(tokens, sampling, stop), self._stop_texts)
        finally:
            place.leave()

    def _generate(self, tokens: list[int], sampling: Sampling, stop: threading.Event) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        left = threading.Event()
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        known, cache = self._prefixes.start(tokens)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                out = self.model.generate(
                    torch.tensor([tokens], device=self.device),
                    attention_mask=torch.ones(1, len(tokens), dtype=torch.long, device=self.device),
                    past_key_values=cache if known else None,
                    generation_config=self._config(sampling),
                    stopping_criteria=[lambda ids, *_: _all(ids, value=stop.is_set() or left.is_set())],
                    streamer=streamer,
                    **self._generate_options(),
                )
                self._prefixes.remember(out.sequences[0].tolist(), out.past_key_values)
            except BaseException as error:  # noqa: BLE001  carried to the reader below
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=work, name="generate", daemon=True)
        worker.start()
        try:
            yield from streamer
        finally:
            left.set()
            worker.join()
        if failure:
            raise failure[0]

    def _complete_batch(self, prompts: list[list[int]], shared: int, max_new_tokens: int) -> list[str]:
        import torch

        width = max(map(len, prompts))
        pad = self._pad
        rows = [p[:shared] + [pad] * (width - len(p)) + p[shared:] for p in prompts]
        mask = [[1] * shared + [0] * (width - len(p)) + [1] * (len(p) - shared) for p in prompts]
        out = self.model.generate(
            torch.tensor(rows, device=self.device),  # [prompts, width]
            attention_mask=torch.tensor(mask, device=self.device),
            past_key_values=self._shared_cache(prompts[0][:shared], len(prompts)),
            generation_config=self._config(self._fit(rows[0], Sampling(max_new_tokens))),
            **self._generate_options(),
        )
        texts = self.tokenizer.batch_decode(out.sequences[:, width:], skip_special_tokens=True)
        return ["".join(until([text], self._stop_texts)) for text in texts]

    def _shared_cache(self, tokens: list[int], rows: int) -> Any:
        """The cache of `tokens`, once a row; None for no tokens."""
        import copy

        import torch
        from transformers import DynamicCache

        if not tokens:
            return None
        # One token is added so that a cache of exactly `tokens` may be found
        known, cache = self._prefixes.start([*tokens, -1])
        if known < len(tokens):
            with torch.inference_mode():
                cache = self.model(
                    torch.tensor([tokens[known:]], device=self.device),
                    past_key_values=cache or DynamicCache(config=self.model.config),
                    use_cache=True,
                ).past_key_values
            self._prefixes.remember(tokens, copy.deepcopy(cache))
        cache.batch_repeat_interleave(rows)
        return cache

    def _config(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=self._stop_tokens,
            pad_token_id=self._pad,
            return_dict_in_generate=True,
            **(chosen if sampling.temperature > 0 else {}),
        )

    def _generate_options(self) -> dict[str, Any]:
        """use_model_defaults: the folder's own generation_config.json must not switch sampling or penalties on."""
        texts = {"stop_strings": list(self._stop_texts), "tokenizer": self.tokenizer} if self._stop_texts else {}
        return {"use_model_defaults": False, **texts}

    def _fit(self, tokens: Sequence[int], sampling: Sampling) -> Sampling:
        """No more new tokens than the model has positions left."""
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is None or len(tokens) + sampling.max_new_tokens <= room:
            return sampling
        if len(tokens) >= room:
            raise UserMistake(
                "ConversationTooLong",
                f"The conversation has {len(tokens)} tokens; the model takes {room}.",
                "Clear the conversation, or ask a shorter question.",
            )
        return Sampling(room - len(tokens), sampling.temperature, sampling.top_p)

    @property
    def _shareable(self) -> bool:
        """Attention with a window or linear attention can't go on from a cut or padded cache."""
        kinds = set(getattr(self.model.config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"} and not getattr(self.model.config, "sliding_window", None)

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self._stop_tokens[0])

    def _stops(self) -> tuple[list[int], tuple[str, ...]]:
        """(tokens, texts) that end an answer: the template's stop words and both end-of-sequence settings."""
        own = self.model.generation_config.eos_token_id
        found = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        texts = []
        for word in self.template.stop_words:
            pieces = self.tokenizer.encode(word, add_special_tokens=False)
            if len(pieces) == 1 and (pieces[0] != self.tokenizer.unk_token_id or word == self.tokenizer.unk_token):
                found.add(pieces[0])
            else:
                texts.append(word)
        return sorted(found), tuple(texts)


def until(pieces: Iterator[str] | Sequence[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first stop text; what may be the start of one is held back until it is known."""
    held = ""
    keep = max(map(len, stops), default=1) - 1
    for piece in pieces:
        held += piece
        ends = [held.index(stop) for stop in stops if stop in held]
        if ends:
            yield held[: min(ends)]
            return
        ready = len(held) - keep
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    if held:
        yield held


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own; 0 for no prompts."""
    if not prompts:
        return 0
    return min(*(common_prefix(prompts[0], p) for p in prompts), min(map(len, prompts)) - 1)


def _all(ids: Any, *, value: bool) -> Any:
    """`value` for each row, as a stopping criterion answers: a bool tensor of shape [rows]."""
    import torch

    return torch.full((ids.shape[0],), value, dtype=torch.bool, device=ids.device)
