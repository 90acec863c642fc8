"""A tool of lagent's kind that needs no network: exact arithmetic, so that a model has a choice to make."""

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

from lagent.actions import BaseAction, tool_api
from lagent.schema import ActionReturn, ActionStatusCode

LONGEST = 200
"""Characters of an expression; longer ones are refused before they are parsed."""
PLACES = 6
"""Decimal places of a result that is not whole."""

OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS: dict[type, Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def work_out(expression: str) -> str:
    """The value of numbers, + - * / and parentheses; nothing else is evaluated.

    Raises ValueError with a sentence when it is no such expression, ZeroDivisionError when it divides by zero.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression is longer than {LONGEST} characters")
    try:
        body = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{expression!r} is not an arithmetic expression") from None
    return _written(_value(body))


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.BinOp(left, operation, right) if type(operation) in OPERATIONS:
            return OPERATIONS[type(operation)](_value(left), _value(right))
        case ast.UnaryOp(sign, operand) if type(sign) in SIGNS:
            return SIGNS[type(sign)](_value(operand))
    raise ValueError(f"{ast.unparse(node)!r} is not made of numbers, + - * / and parentheses")


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{PLACES}f}".rstrip("0").rstrip(".")


class Calculator(BaseAction):  # type: ignore[misc]  # lagent has no types
    """Exact arithmetic. Useful for when you need to work out a number."""

    @tool_api(explode_return=True)  # type: ignore[untyped-decorator]
    def evaluate(self, expression: str) -> dict[str, str] | ActionReturn:
        """Work out an arithmetic expression.

        Args:
            expression (:class:`str`): numbers, + - * / and parentheses

        Returns:
            :class:`dict`: result
                * value (str): the number
        """
        try:
            return {"value": work_out(str(expression))}
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            return ActionReturn(type=self.name, errmsg=f"Calculator: {error}", state=ActionStatusCode.API_ERROR)
