"""python examples/smollm2-react/make_data.py [FOLDER]

Writes the example's training rows, examples/react-data/*.jsonl, in the format in which Agent-FLAN is published:
a line is {"conversation": [{"role", "content", "loss"}, ...], "id"}. Prompts and observations are lagent's own text,
made by lagent and by the tools that the demo offers; the papers are invented. The same words give the same rows.

A conversation asks several questions: the system prompt, which is most of a row's tokens, is paid for once.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lagent.actions import ActionExecutor
from lagent.schema import ActionReturn, ActionStatusCode

from finetune_jobs.agent.react import Protocol
from finetune_jobs.agent.tools import make_executor

HERE = Path(__file__).parent
FOLDER = HERE.parent / "react-data"
SEED = 11
SEARCH = "ArxivSearch.get_arxiv_article_information"
SUM = "Calculator"
FILES: dict[str, tuple[list[str], tuple[str, ...], int]] = {
    "one_tool": (["ArxivSearch"], ("search", "plain", "plain"), 5),
    "two_tools": (["ArxivSearch", "Calculator"], ("search", "sum", "plain"), 50),
}
"""By file: the tools that the system prompt offers, the kinds of question in a conversation, conversations."""

Message = dict[str, Any]


class Rows:
    """Draws questions, tool answers and final answers from the word lists, each wording as rarely as can be."""

    def __init__(self, words: dict[str, Any], rng: random.Random) -> None:
        self.words = {**words, **words["thoughts"]}
        self.rng = rng
        self.tools = make_executor(["ArxivSearch", "Calculator"])
        self.decks: dict[str, list[Any]] = {}

    def draw(self, name: str) -> Any:
        """The next of a list in a shuffled order; all come before one comes again."""
        if not self.decks.get(name):
            self.decks[name] = self.rng.sample(self.words[name], len(self.words[name]))
        return self.decks[name].pop()

    def search(self) -> list[Message]:
        """A question to arXiv: call, observation, final answer."""
        topic = self.draw("topics")
        fate = self.draw("fates")
        if fate == "failed":
            seen, answer = self.failure(self.draw("errors")), "I could not search arXiv, so I have no article."
        elif fate == "empty":
            seen, answer = self.articles("No good Arxiv Result was found"), f"I found no article about {topic}."
        else:
            papers = [self.paper(topic, longest=fate["sentences"]) for _ in range(fate["papers"])]
            seen = self.articles("\n\n".join(paper["text"] for paper in papers))
            answer = f'I found "{papers[0]["title"]}" by {papers[0]["by"]}.'
        thought = self.draw(fate if isinstance(fate, str) else "found")
        return [
            said("user", self.draw("questions").format(topic)),
            called(self.draw("search").format(topic), SEARCH, {"query": topic}),
            self.observed(seen),
            finished(thought, answer),
        ]

    def paper(self, topic: str, *, longest: int) -> dict[str, str]:
        title = self.draw("titles").format(topic[0].upper() + topic[1:])
        names = [f"{self.draw('first_names')} {self.draw('last_names')}" for _ in range(self.rng.randint(1, 4))]
        by = " and ".join(names) if len(names) < 3 else f"{names[0]} and others"
        date = f"20{self.rng.randint(12, 24)}-{self.rng.randint(1, 12):02}-{self.rng.randint(1, 28):02}"
        summary = " ".join(self.draw("sentences").format(topic) for _ in range(self.rng.randint(1, longest)))
        text = f"Published: {date}\nTitle: {title}\nAuthors: {', '.join(names)}\nSummary: {summary}"
        return {"title": title, "by": by, "text": text}

    def sum(self) -> list[Message]:
        """Arithmetic: call, observation, final answer."""
        question, operation = self.draw("sums")
        a, b = self.numbers(operation)
        expression = f"{a} {operation} {b}"
        arguments = {"expression": expression}
        seen = self.tools(SUM, json.dumps(arguments))
        value = json.loads(seen.format_result())["result"]
        return [
            said("user", question.format(a=a, b=b)),
            called(self.draw(operation), SUM, arguments),
            self.observed(seen),
            finished(self.draw("number"), f"{expression} = {value}."),
        ]

    def numbers(self, operation: str) -> tuple[int, int]:
        """Of two to four and of one to three figures; a quotient is whole."""
        a = self.rng.randrange(10, self.rng.choice((100, 1000, 10000)))
        b = self.rng.randrange(2, self.rng.choice((10, 100, 100, 1000)))
        return (a * b, b) if operation == "/" else (max(a, b), min(a, b))

    def plain(self) -> list[Message]:
        """A question that needs no tool."""
        question, answer = self.draw("plain_pairs")
        return [said("user", question), finished(self.draw("plain"), answer)]

    def articles(self, content: str) -> ActionReturn:
        """What ArxivSearch answers when it has found `content`."""
        parser = self.tools.actions["ArxivSearch"]._parser  # noqa: SLF001  lagent offers no public way to it
        return ActionReturn(result=parser.parse_outputs({"content": content}))

    def failure(self, sentence: str) -> ActionReturn:
        return ActionReturn(errmsg=sentence, state=ActionStatusCode.HTTP_ERROR)

    def observed(self, seen: ActionReturn) -> Message:
        return said("user", Protocol().format_response(seen)["content"])


def said(role: str, content: str) -> Message:
    """Every message carries `loss`: XTuner takes a missing one as False as soon as another row has it."""
    return {"role": role, "content": content, "loss": role == "assistant"}


def called(thought: str, action: str, arguments: dict[str, str]) -> Message:
    written = json.dumps(arguments, ensure_ascii=False)
    return said("assistant", f"Thought:{thought}\nAction:{action}\nAction Input:{written}")


def finished(thought: str, answer: str) -> Message:
    return said("assistant", f"Thought:{thought}\nFinal Answer:{answer}")


def system_prompt(tools: ActionExecutor) -> Message:
    return said("system", Protocol().format([], [], tools)[0]["content"])


def conversations(rows: Rows, tools: list[str], kinds: tuple[str, ...], count: int) -> Iterator[list[Message]]:
    """`count` conversations, each with one question of each of `kinds` in any order."""
    system = system_prompt(make_executor(tools))
    for _ in range(count):
        order = rows.rng.sample(kinds, len(kinds))
        yield [system, *(message for kind in order for message in getattr(rows, kind)())]


def make(folder: Path) -> None:
    words = yaml.safe_load((HERE / "words.yaml").read_text(encoding="utf-8"))
    rows = Rows(words, random.Random(SEED))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (tools, kinds, count) in FILES.items():
        lines = [
            json.dumps({"conversation": conversation, "id": f"{name}_{number}"}, ensure_ascii=False) + "\n"
            for number, conversation in enumerate(conversations(rows, tools, kinds, count))
        ]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(lines)} conversations")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
