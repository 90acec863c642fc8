"""Tools whose answers come from here instead of the network, so that a measurement can be repeated.

The tool is lagent's own ArxivSearch: its prompt text, its check of the arguments and its way of writing papers
down are the real ones. Only `arxiv.Search` below it is replaced, by invented papers that depend on nothing but
the query: three of them, as many as the tool asks for, with abstracts of a real one's length.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest import mock

NAMES = (
    "Elena Kowalska", "Rajesh Iyer", "Hanna Virtanen", "Pierre Moreau", "Yusuf Demir", "Grace Mbeki", "Takumi Sato",
    "Ingrid Solberg", "Carlos Ortega", "Naomi Feldman", "Bohdan Shevchenko", "Leila Rahimi",
)  # fmt: skip
TITLES = (
    "A Closer Look at {}", "Rethinking {} from First Principles", "Foundations of {}", "{} in Practice",
    "What We Know about {}", "Benchmarking {} at Scale", "The Structure of {}", "Fast and Reliable {}",
)  # fmt: skip
SENTENCES = (
    "Despite growing interest in {}, a common ground for judging what has been achieved is still missing.",
    "In this work we revisit {} and separate the effects that earlier reports had mixed together.",
    "We introduce a procedure that reaches the accuracy of the best known methods at a tenth of their cost.",
    "An analysis across eleven settings explains when the procedure can be trusted and when it can't.",
    "Surprisingly, the choice that most practitioners make by habit turns out to matter more than the model itself.",
    "We release the collected measurements together with the scripts that produce every figure of this article.",
    "The observations are in line with a simple account in which two competing mechanisms balance each other.",
    "Finally, we discuss what remains to be understood about {} and list experiments that could settle it.",
)
FIRST_DAY = datetime(2015, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Author:
    name: str


@dataclass(frozen=True)
class Paper:
    """The fields of ``arxiv.Result`` that the tool reads."""

    updated: datetime
    title: str
    authors: tuple[Author, ...]
    summary: str


class Search:
    """In place of ``arxiv.Search``: the same query finds the same papers."""

    def __init__(self, query: str, max_results: int = 3, **_: object) -> None:
        self.query = query
        self.max_results = max_results

    def results(self) -> Iterator[Paper]:
        for number in range(self.max_results):
            yield paper(self.query.strip(), number)


def paper(query: str, number: int) -> Paper:
    digits = hashlib.sha256(query.casefold().encode()).digest()
    start, length, first = digits[0] + 3 * number, 4 + digits[1 + number % 3] % 3, digits[4] + 5 * number
    summary = " ".join(SENTENCES[(start + i) % len(SENTENCES)] for i in range(length))
    return Paper(
        updated=FIRST_DAY + timedelta(days=10 * digits[5 + number % 3] + digits[8]),
        title=TITLES[(digits[9] + number) % len(TITLES)].replace("{}", query[:1].upper() + query[1:]),
        authors=tuple(Author(NAMES[(first + i) % len(NAMES)]) for i in range(1 + digits[10 + number % 3] % 4)),
        summary=summary.replace("{}", query),
    )


@contextmanager
def recorded() -> Iterator[None]:
    """Within this block lagent's ArxivSearch finds the papers above."""
    with mock.patch("arxiv.Search", Search):
        yield
