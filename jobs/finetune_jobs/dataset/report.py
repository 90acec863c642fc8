"""What became of every row: counted while reading, written as report.json beside the data."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune_jobs.contract import REPORT_FILE
from finetune_jobs.dataset.conversation import DROPS, NOTES, REPAIRS, NotUnderstood
from finetune_jobs.dataset.rows import Row
from finetune_jobs.dataset.tokens import Array
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import write_atomically

EXAMPLES = 20
"""Rows named in the report for each reason."""
EXAMPLES_IN_MESSAGE = 5
WHY_LENGTH = 200  # characters of a row's problem in a message
HOPELESS = 1_000
"""Rows after which the stage ends if not one could be kept."""
BINS = 40
CUTS = {"cut": "Longer than max_length: kept up to the last turn that fits whole."}


class Ending(NamedTuple):
    """How the stage ends when most dropped rows were dropped for one reason."""

    failure: str
    cure: str


OTHER_FORMAT = "Name the data's format (agent-flan, messages or xtuner), or give a source that has it."
ENDINGS = {
    "broken_json": Ending("BrokenJson", "Correct these lines: each must be one JSON object."),
    "not_utf8": Ending("NotUtf8", "Save the files as UTF-8."),
    "not_a_row": Ending("RowsNotUnderstood", OTHER_FORMAT),
    "no_messages": Ending("RowsNotUnderstood", OTHER_FORMAT),
    "no_assistant_turn": Ending("NoAssistantTurn", "Give conversations in which an assistant answers a user."),
    "nothing_supervised": Ending("NothingSupervised", "Mark the assistant turns to be trained with `loss: true`."),
    "too_long": Ending("RowsTooLong", "Raise maxLength, or leave long rows out of the data."),
    "bad_tokens": Ending("TokensNotUnderstood", "Tokenise the data with this model's tokenizer, or give messages."),
}
OTHERWISE = Ending("RowsNotUnderstood", "Correct these rows, or leave them out of the data.")


class Tally:
    """Counts, with the first rows of each kind by file and line."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.read: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.cut = 0
        self.tokens = 0
        self.supervised = 0
        self.longest = 0
        self.lengths = np.zeros(max_length + 2, np.int64)
        """Conversations by length, before any cut; the last counts all that are longer than max_length."""
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def drop(self, row: Row, problem: NotUnderstood) -> None:
        self.dropped[problem.reason] += 1
        self.example(problem.reason, row, problem.why)
        read = self.read.total()
        if read >= HOPELESS and not self.kept:
            raise self.failure(read)

    def keep(self, row: Row, document: Array, length: int) -> None:
        """`length` is the conversation's own, in tokens."""
        self.kept[row.file] += 1
        self.tokens += len(document)
        self.supervised += int(np.count_nonzero(document >= 0))
        self.longest = max(self.longest, length)
        self.lengths[min(length, self.max_length + 1)] += 1

    def mark(self, row: Row, repaired: Iterable[str], noted: Iterable[str]) -> None:
        for counter, reasons in ((self.repaired, repaired), (self.noted, noted)):
            for reason in sorted(reasons):
                counter[reason] += 1
                self.example(reason, row)

    def mark_cut(self, row: Row, length: int, turns: int, of: int) -> None:
        self.cut += 1
        self.example("cut", row, f"{length} tokens, {turns} of {of} turns kept")

    def example(self, reason: str, row: Row, why: str = "") -> None:
        known = self.examples.setdefault(reason, [])
        if len(known) < EXAMPLES:
            known.append({"file": row.file, "line": row.line} | ({"why": why} if why else {}))

    def require_enough_kept(self, max_dropped: str) -> None:
        """UserMistake when there are no rows, or when a larger part than `max_dropped` was dropped."""
        read, dropped = self.read.total(), self.dropped.total()
        if not read:
            raise UserMistake("DatasetEmpty", "The dataset has no rows.", "Give files with at least one conversation.")
        if not self.kept or Decimal(dropped) > Decimal(max_dropped) * read:
            raise self.failure(read, max_dropped)

    def failure(self, read: int, max_dropped: str | None = None) -> UserMistake:
        reason, _ = self.dropped.most_common(1)[0]
        ending = ENDINGS.get(reason, OTHERWISE)
        dropped = self.dropped.total()
        allowed = f" (maxDropped allows a fraction of {max_dropped})" if max_dropped and self.kept else ""
        rows = f"{dropped} of {'the first ' if max_dropped is None else ''}{read} rows can't be used{allowed}"
        return UserMistake(ending.failure, f"{rows}: {self.first_problems(reason)}.", ending.cure)

    def first_problems(self, reason: str) -> str:
        """Up to five rows, the most frequent reason's first."""
        order = [reason, *(other for other in self.dropped if other != reason)]
        rows = [example for one in order for example in self.examples[one]][:EXAMPLES_IN_MESSAGE]
        return "; ".join(f"{row['file']}:{row['line']}: {row['why'][:WHY_LENGTH]}" for row in rows)

    def histogram(self) -> dict[str, Any]:
        """Conversations by length: `counts[i]` have `edges[i]` <= tokens < `edges[i + 1]`."""
        edges = np.unique(np.linspace(0, self.max_length + 1, BINS + 1).astype(int))
        counts = [int(self.lengths[a:b].sum()) for a, b in itertools.pairwise(edges)]
        return {"unit": "tokens", "edges": edges.tolist(), "counts": counts, "longer": int(self.lengths[-1])}

    def percentiles(self) -> dict[str, int]:
        """Lengths, in tokens, that this part of the kept conversations doesn't exceed."""
        running = np.cumsum(self.lengths)
        places = {f"p{part}": int(np.searchsorted(running, running[-1] * part / 100)) for part in (50, 90, 99)}
        return {name: min(place, self.longest) for name, place in places.items()} | {"longest": self.longest}


def counted(tally: Tally, counter: Counter[str], meanings: dict[str, str]) -> dict[str, Any]:
    return {
        reason: {"rows": count, "meaning": meanings[reason], "first": tally.examples[reason]}
        for reason, count in sorted(counter.items())
    }


def write_report(folder: Path, tally: Tally, more: dict[str, Any]) -> None:
    """report.json; `more` are facts of the run beside the tally's."""
    report = {
        "rowsRead": tally.read.total(),
        "rowsKept": tally.kept.total(),
        "rowsDropped": counted(tally, tally.dropped, DROPS),
        "rowsCut": counted(tally, Counter({"cut": tally.cut} if tally.cut else {}), CUTS),
        "rowsRepaired": counted(tally, tally.repaired, REPAIRS),
        "rowsNoted": counted(tally, tally.noted, NOTES),
        "tokens": tally.tokens,
        "supervisedTokens": tally.supervised,
        "lengths": tally.percentiles(),
        "histogram": tally.histogram(),
        "files": [{"name": name, "rowsRead": n, "rowsKept": tally.kept[name]} for name, n in tally.read.items()],
        **more,
    }
    write_atomically(folder / REPORT_FILE, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
