"""Finds the JSON in an agent's reply, and validates it by a JSON Schema.

Owns where JSON is looked for: the whole reply, code fences, objects and lists between other text; first as it is, then
repaired. Must not start anything. The libraries for repair and schemas are imported when a reply needs them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ccexecctl.errors import UsageError

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)

MOST_STARTS = 200
"""The first braces and brackets of a reply, so many at most, are tried as the beginning of JSON between other text."""

SHOWN = 200
"""Characters of the validator's message that an error shows."""


class ReplyError(ValueError):
    """A reply is not the JSON that was asked for; the text says why, and is also sent to the agent."""


def require_schema(schema: Mapping[str, Any]) -> None:
    """Make sure that a schema is a JSON Schema.

    Raises:
        UsageError: it is not.
    """
    from jsonschema import SchemaError  # noqa: PLC0415  # takes 80 ms
    from jsonschema.validators import validator_for  # noqa: PLC0415

    try:
        json.dumps(schema)
        validator_for(schema).check_schema(dict(schema))
    except SchemaError as error:
        raise UsageError(f"json_schema is no JSON Schema: {error.json_path}: {error.message[:SHOWN]}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"json_schema is not JSON: {error}") from error


def read_reply(text: str, schema: Mapping[str, Any] | None = None) -> Any:
    """Find the JSON in a reply.

    Args:
        text: the whole reply.
        schema: JSON Schema that the value has to conform to; None for any object or list.

    Returns:
        The value.

    Raises:
        ReplyError: the reply has no JSON, or none that conforms.
    """
    problems: list[str] = []
    for value in _candidates(text):
        problem = _problem_of(value, schema)
        if problem is None:
            return value
        problems.append(problem)
    raise ReplyError(problems[0] if problems else "there is no JSON in it")


def _problem_of(value: Any, schema: Mapping[str, Any] | None) -> str | None:
    if schema is None:
        return None if isinstance(value, dict | list) else f"it is {_kind(value)}, not an object or a list"
    from jsonschema.exceptions import best_match  # noqa: PLC0415
    from jsonschema.validators import validator_for  # noqa: PLC0415

    error = best_match(validator_for(schema)(schema).iter_errors(value))
    return None if error is None else f"{error.json_path}: {error.message[:SHOWN]}"


def _kind(value: Any) -> str:
    kinds = {str: "a string", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _candidates(text: str) -> Iterator[Any]:
    """Yield the values that a reply may mean, the likeliest first; repaired ones come last."""
    whole = text.strip()
    fenced = [match[3].strip() for match in reversed(list(_FENCE.finditer(text)))]
    yield from _strict(whole)
    for block in fenced:
        yield from _strict(block)
    found = sorted(_embedded(whole), key=lambda pair: -pair[0])
    yield from (value for _, value in found)
    for block in [*fenced, _braced(whole)]:
        yield from _repaired(block)


def _strict(text: str) -> Iterator[Any]:
    try:
        yield json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return


def _refuse(constant: str) -> Any:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(constant)


def _embedded(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the objects and lists between other text, each as its length in characters and its value."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    end = 0
    for start in [match.start() for match in re.finditer(r"[{\[]", text)][:MOST_STARTS]:
        if start < end:
            continue  # inside of a value that was found
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield end - start, value


def _braced(text: str) -> str:
    """Return the text from the first brace or bracket to the last closing one; to its end if there is none."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    end = max(text.rfind("}"), text.rfind("]")) + 1
    return text[start : end if end > start else None]


def _repaired(text: str) -> Iterator[Any]:
    if not text.startswith(("{", "[")):
        return
    from json_repair import repair_json  # noqa: PLC0415  # takes 20 ms, and is the last resort

    try:
        value = repair_json(text, return_objects=True)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict | list) and value:
        yield value
