"""Seeded rows of Agent-FLAN's published format and length mix; used by bench_data.

The published files: seven JSON lines files of ``{"conversation": [{role, content, loss}], "id"}``, 34,442 rows that
XTuner packs into 6,172 rows of 4,096 tokens with Llama 3's tokenizer, so 734 tokens a row in the mean. What is made up:
how the rows are shared among the files, the spread of the lengths (log-normal, sigma 0.6) and the words, which are
English prose from the Python reference that the standard library carries, with random names strewn in.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

PUBLISHED_ROWS = 34_442
MEAN_TOKENS = 6_172 * 4_096 / PUBLISHED_ROWS
SIGMA = 0.6  # of the logarithm of a row's length
MEAN_WORDS_PER_TOKEN = 0.5  # first guess, corrected by `words_per_token`
FILES = (
    "agent_instruct_react",
    "agent_instruct_tflan",
    "toolbench_instruct_j1s1_3k",
    "toolbench_negative",
    "toolbench_react_10p",
    "toolbench_tflan_60p_r10r5u7",
    "toolbench_tflan_cot_30p",
)
SHARES = (0.05, 0.10, 0.09, 0.06, 0.10, 0.40, 0.20)  # of the rows, by file
WORDS = " ".join(topics[name] for name in sorted(topics)).split()


def prose(rng: random.Random, words: int) -> str:
    """Consecutive words, one in sixteen replaced by a number or name that no tokenizer has cached."""
    start = rng.randrange(len(WORDS) - words)
    text = WORDS[start : start + words]
    for place in range(rng.randrange(16), words, 16):
        text[place] = f"{rng.getrandbits(32):x}"
    return " ".join(text)


def call(rng: random.Random, words: int) -> str:
    arguments = {rng.choice(WORDS): prose(rng, max(1, words // 3)), "limit": rng.randrange(100)}
    thought = prose(rng, max(1, words * 2 // 3))
    return f"Thought: {thought}\nAction: {rng.choice(WORDS)}\nAction Input: {json.dumps(arguments)}"


def conversation(rng: random.Random, words: int) -> list[dict[str, object]]:
    """Messages of about `words` words: tools, a question, then calls and what they answered."""
    turns = 1 + min(5, rng.randrange(1 + words // 120))
    share = max(4, words // (2 + 2 * turns))
    messages: list[dict[str, object]] = [
        {"role": "system", "content": f"You can use tools.\n{prose(rng, 2 * share)}", "loss": False}
    ]
    for turn in range(turns):
        question = prose(rng, share) if turn == 0 else json.dumps({"content": prose(rng, share)})
        messages.append({"role": "user", "content": question, "loss": False})
        messages.append({"role": "assistant", "content": call(rng, share), "loss": rng.random() > 0.1})
    messages[-1]["loss"] = True
    return messages


def words_per_token(count_tokens: Callable[[str], int]) -> float:
    """Words that make one token of a row, so that the rows come out at MEAN_TOKENS with any tokenizer."""
    rng = random.Random(7)
    tokens = words = 0
    for _ in range(300):
        size = row_words(rng, MEAN_WORDS_PER_TOKEN)
        words += size
        tokens += sum(count_tokens(str(one["content"])) + 5 for one in conversation(rng, size))
    return words / tokens


def row_words(rng: random.Random, rate: float) -> int:
    median = MEAN_TOKENS * 2.718281828 ** (-SIGMA * SIGMA / 2)
    return max(8, int(rate * median * 2.718281828 ** (SIGMA * rng.gauss(0, 1))))


def write_files(folder: Path, rows: int, rate: float, seed: int = 0) -> None:
    """`rows` rows in seven files; `rate` as `words_per_token` gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    left = rows
    for name, share in zip(FILES, SHARES, strict=True):
        count = left if name == FILES[-1] else min(left, round(rows * share))
        left -= count
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(lines(name, count, rate, seed))


def lines(name: str, rows: int, rate: float, seed: int) -> Iterator[str]:
    rng = random.Random(f"{name} {seed}")
    for number in range(rows):
        row = {"conversation": conversation(rng, row_words(rng, rate)), "id": f"{name}_{number}"}
        yield json.dumps(row, ensure_ascii=False) + "\n"
