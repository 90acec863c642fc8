"""Documents for both sides to judge: the good job with parts drawn anew, bent at random places."""

from copy import deepcopy
from typing import Any

import yaml
from hypothesis import strategies as st
from tests.api.drawn import a_good, fields, spec_schema, values
from tests.specs import JOB

FIELDS = dict(fields(spec_schema()))
JUNK = st.sampled_from(
    [None, {}, [], 0.5, "", "a", "-x", "A_b", "a.b", "é", "x" * 254, "x" * 5000, 0, -1, 2, 10**6, 2**31, 2**40, 2**70,
     "a\n", "1e-400", "1e999", "0.11", "1.5", "fast", "500m", "10GB", "a==1", "/a", "a/b", "0" * 64, [["a"]], [None],
     {"a": {}}, {"name": "a"}, True]
)  # fmt: skip
Place = tuple[Any, Any]
"""An object or list, and the key or index of one of its values."""
EXCLUDING = (
    ("huggingFace", "git", "volume", "pypi"),
    ("dataset", "adapter"),
    ("training", "adapter"),
    ("size", "claimName"),
)
"""Fields of which one object has one."""


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The good job with up to three fields drawn anew, and often bent once or twice."""
    document = yaml.safe_load(JOB)
    for path in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True)):
        put(document["spec"], path, draw(values(FIELDS[path])), alone=draw(st.sampled_from([True, True, False])))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        bend(draw, document)
    return document


def put(spec: dict[str, Any], path: tuple[str, ...], value: Any, *, alone: bool = False) -> None:
    """Write a field, with what has to stand around it; `alone` takes away what excludes it."""
    for depth, name in enumerate(path, 1):
        if alone:
            for other in (field for fields in EXCLUDING if name in fields for field in fields if field != name):
                spec.pop(other, None)
        spec[name] = value if depth == len(path) else spec.get(name) or a_good(FIELDS[path[:depth]])
        spec = spec[name]


def places(value: Any) -> list[Place]:
    """Every value below."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def bend(draw: st.DrawFn, document: dict[str, Any]) -> None:
    holder, key = draw(st.sampled_from(places({"spec": document["spec"]})[1:] or [(document, "spec")]))
    match draw(st.sampled_from(["replace", "replace", "remove", "add", "wrap"])):
        case "replace":
            holder[key] = deepcopy(draw(JUNK))
        case "remove":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(["unknown", "name", "path", "size"]))] = deepcopy(draw(JUNK))
        case _:
            holder[key] = [holder[key]]
