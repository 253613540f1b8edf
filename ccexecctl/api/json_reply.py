"""Finding the JSON in what an agent replied, and holding it against a schema.

Owns where it is looked for: the whole reply, code fences, anything in braces between other text; as it is first, then
repaired. Must not start anything. The libraries for repair and schemas are loaded when a reply needs them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ccexecctl.errors import UsageError

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)

MOST_STARTS = 200
"""Braces and brackets in the text around the JSON that are tried as its beginning."""

SHOWN = 200
"""Characters of a problem's place and of a value that are shown."""


class ReplyError(ValueError):
    """A reply is not the JSON that it was to be; the text says why, in words for the agent too."""


def require_schema(schema: Mapping[str, Any]) -> None:
    """See that a schema can be held against anything.

    Raises:
        UsageError: it is no JSON Schema.
    """
    from jsonschema import SchemaError  # noqa: PLC0415  # 80 ms
    from jsonschema.validators import validator_for  # noqa: PLC0415

    try:
        json.dumps(schema)
        validator_for(schema).check_schema(dict(schema))
    except SchemaError as error:
        raise UsageError(f"json_schema is no JSON Schema: {error.json_path}: {error.message[:SHOWN]}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"json_schema is not JSON: {error}") from error


def read_reply(text: str, schema: Mapping[str, Any] | None = None) -> Any:
    """The JSON in a reply.

    Args:
        text: all of it.
        schema: what it has to conform to; None for any object or list.

    Raises:
        ReplyError: there is none, or none that conforms.
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
    """Values that the reply may be, the likeliest first; what nobody has to repair comes before what has been."""
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
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(constant)


def _embedded(text: str) -> Iterator[tuple[int, Any]]:
    """Objects and lists between other text, each with its length."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    end = 0
    for start in [match.start() for match in re.finditer(r"[{\[]", text)][:MOST_STARTS]:
        if start < end:
            continue  # inside of one that was found
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield end - start, value


def _braced(text: str) -> str:
    """From the first brace or bracket to the last one; to the end, where the reply was cut before that."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    end = max(text.rfind("}"), text.rfind("]")) + 1
    return text[start : end if end > start else None]


def _repaired(text: str) -> Iterator[Any]:
    if not text.startswith(("{", "[")):
        return
    from json_repair import repair_json  # noqa: PLC0415  # 20 ms, and only when nothing else will do

    try:
        value = repair_json(text, return_objects=True)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict | list) and value:
        yield value
