"""``python teach.py BASE OUT``: the base model after a few steps on one question, in about a minute on one core."""

import os
import sys
from pathlib import Path
from typing import Any

from finetune_jobs.agent.prompt import prompt_tokens
from finetune_jobs.agent.react import Agent
from finetune_jobs.templates import template

TEMPLATE = "qwen_chat"
QUESTION = "Please help me search the InternLM2 Technical Report."
CALL = (
    "Thought:I search arXiv.\nAction:ArxivSearch.get_arxiv_article_information\n"
    'Action Input:{"query": "InternLM2 Technical Report"}'
)
FOUND = "Thought:The response has it.\nFinal Answer:I found the report."
STEPS = 16


def teach(base: Path, folder: Path) -> None:
    """Train on the question, its call, and the answer to each of two observations, until it knows them by heart."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    rows = [lesson(tokenizer, observation) for observation in ("arXiv can't be reached.", '{"content": "Published"}')]
    for step in range(STEPS):
        ids, labels = rows[step % len(rows)]
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    model.merge_and_unload().save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.replace(folder)


def lesson(tokenizer: Any, observation: str) -> tuple[list[int], list[int]]:
    """(token ids, labels): both answers of one turn are learned, the rest is read."""
    talk = Agent(None).messages(QUESTION)
    ids: list[int] = []
    labels: list[int] = []
    for said in (CALL, FOUND):
        prompt = prompt_tokens(tokenizer, template(TEMPLATE), talk)
        answer = tokenizer.encode(said + template(TEMPLATE).suffix, add_special_tokens=False)
        labels += [-100] * (len(prompt) - len(ids)) + answer
        ids = prompt + answer
        talk += [{"role": "assistant", "content": said}, {"role": "user", "content": f"Response:{observation}\n"}]
    return ids, labels


if __name__ == "__main__":
    teach(Path(sys.argv[1]), Path(sys.argv[2]))
