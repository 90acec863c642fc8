"""The tools that an agent may call, as lagent actions found by name.

Offered is what needs no key and can do no harm. lagent's other actions are refused with the reason: see `REFUSED`.
"""

import ast
import logging
import math
import operator
import os
import queue
import threading
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from lagent.actions import ActionExecutor, ArxivSearch, BaseAction
from lagent.schema import ActionReturn, ActionStatusCode

from finetune_jobs.errors import UserMistake

log = logging.getLogger(__name__)

ARXIV_URL = "FINETUNE_ARXIV_URL"
"""Environment variable: where arXiv's query API is answered, instead of https://export.arxiv.org/api/query."""
SEARCH_SECONDS = 10.0
"""A search that takes longer is given up; arxiv's client itself would retry for minutes on a dead network."""
LARGEST_POWER = 1000
"""Largest exponent that the calculator takes: 9 ** 9 ** 9 would fill the memory."""

REFUSED = {
    "PythonInterpreter": "it runs whatever code the model writes, on this machine",
    "IPythonInterpreter": "it runs whatever code the model writes, on this machine",
    "BatchIPythonInterpreter": "it runs whatever code the model writes, on this machine",
    "IPythonInteractive": "it runs whatever code the model writes, on this machine",
    "IPythonInteractiveManager": "it runs whatever code the model writes, on this machine",
    "PPT": "it writes files wherever the model says",
    "BingBrowser": "it opens whatever address the model writes, inside this network too",
    "BINGMap": "it needs a key",
    "GoogleSearch": "it needs a key",
    "GoogleScholar": "it needs a key",
}


class BoundedArxivSearch(ArxivSearch):  # type: ignore[misc]
    """lagent's ArxivSearch under its own name and description, which always answers, and within `SEARCH_SECONDS`."""

    is_toolkit = True

    def __init__(self) -> None:
        super().__init__(description=ArxivSearch.__tool_description__)

    def get_arxiv_article_information(self, query: str) -> dict[str, str] | ActionReturn:
        _point_arxiv_at(os.environ.get(ARXIV_URL))
        try:
            return within(SEARCH_SECONDS, lambda: super(BoundedArxivSearch, self).get_arxiv_article_information(query))
        except TimeoutError:
            return _failed(f"arXiv did not answer within {SEARCH_SECONDS:g} seconds. Try again later.")
        except OSError as error:  # requests' own errors are of this kind
            log.warning("ArxivSearch(%r): %s: %s", query, type(error).__name__, error)
            return _failed("arXiv can't be reached from this machine: no internet connection, or arXiv is down.")
        except Exception as error:  # noqa: BLE001  whatever arxiv raises is the tool's answer, not the page's end
            log.warning("ArxivSearch(%r): %s: %s", query, type(error).__name__, error)
            return _failed(f"arXiv's answer can't be used: {error}")


class Calculator(BaseAction):  # type: ignore[misc]
    """Calculate the value of an arithmetic expression. Useful for exact sums, products, powers and roots."""

    def run(self, expression: str) -> dict[str, str]:
        """Calculate the value of an arithmetic expression.

        Args:
            expression (:class:`str`): arithmetic with + - * / // % ** ( ) and sqrt, such as (3 + 4) * 2
        """
        try:
            return {"result": f"{calculate(expression):.12g}"}
        except (ArithmeticError, ValueError, SyntaxError) as error:
            raise ValueError(f"can't calculate {expression!r}: {error}") from error


TOOLS: dict[str, Callable[[], BaseAction]] = {"ArxivSearch": BoundedArxivSearch, "Calculator": Calculator}


def make_executor(names: Sequence[str]) -> ActionExecutor:
    """The actions of these names; UserMistake for one that is not offered."""
    return ActionExecutor(actions=[tool(name) for name in names])


def tool(name: str) -> BaseAction:
    if name in TOOLS:
        return TOOLS[name]()
    offered = ", ".join(sorted(TOOLS))
    if name in REFUSED:
        raise UserMistake(
            "ToolRefused", f"The tool {name} is not offered: {REFUSED[name]}.", f"Choose from: {offered}."
        )
    near = get_close_matches(name, TOOLS, n=1, cutoff=0.3)
    write = f"Write {near[0]}, or choose" if near else "Choose"
    raise UserMistake("ToolUnknown", f"There is no tool {name!r}.", f"{write} from: {offered}.")


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; TimeoutError after `seconds`, when it is left to end by itself."""
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:  # noqa: BLE001  raised again below
            outcome.put((None, error))

    threading.Thread(target=work, name="tool", daemon=True).start()
    try:
        value, failure = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return value


def _point_arxiv_at(url: str | None) -> None:
    if url:
        import arxiv

        arxiv.Client.query_url_format = url + "?{}"


def _failed(sentence: str) -> ActionReturn:
    return ActionReturn(errmsg=sentence, state=ActionStatusCode.HTTP_ERROR)


OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def calculate(expression: str) -> float:
    """The value of plain arithmetic; ValueError for anything else, so that nothing is ever executed."""
    return _value(ast.parse(expression.replace("^", "**"), mode="eval").body)


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left), _value(node.right))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        case ast.UnaryOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_value(node.operand))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            return math.sqrt(_value(argument))
    raise ValueError("only numbers, + - * / // % ** ( ) and sqrt are understood")


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > LARGEST_POWER:
        raise ValueError(f"the exponent is larger than {LARGEST_POWER}")
    return math.pow(base, exponent)
