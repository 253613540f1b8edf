"""One value of one key of the configuration: read from text, and checked.

Owns how the text of an environment variable becomes a value, and what is said of a value that its key cannot have. Must
not know where a value comes from: that is `config`. Must not import Trio.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccexecd.keys import Config, allowed, kind_of, rules

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


_FROM_TEXT: Mapping[type, Callable[[str], object]] = {bool: _boolean, int: int, float: float, str: str, tuple: _words}


def from_text(key: str, text: str) -> object:
    """Read the value of a key from text, as an environment variable has it.

    Raises:
        ValueError: the text is none of the key's type.
    """
    return _FROM_TEXT[kind_of(key)](text.strip())


def in_earlier_manner(key: str, text: str) -> str:
    """Remove the empty words of a list from a variable of the earlier system, which ignored them."""
    return ",".join(word for word in text.split(",") if word.strip()) if kind_of(key) is tuple else text


def checked(key: str, value: object) -> tuple[Any, list[tuple[str, str]]]:
    """Check a value against the type and the limits of its key.

    Args:
        key: one of `keys.FIELDS`.
        value: as TOML has it, or as `from_text` gives it.

    Returns:
        The value in the type of its key, and what is wrong with it, each as (place in the value, message): `[2]` is the
        third word of a list, an empty place all of it. With anything wrong, the value is of no use.
    """
    from ccexecd.protocol.codec import StructureError, structure  # noqa: PLC0415  # cattrs: 0.1 s

    if rules(key).choices and isinstance(value, str):
        value = value.lower()
    faults = _faults_inside(key, value) if isinstance(value, list | tuple) else []
    try:
        checked = getattr(structure({key: value}, Config), key)
    except StructureError as error:
        inside = len(f"$.{key}")
        faults += [(p["path"][inside:], f"{p['error']}; it must be {allowed(key)}") for p in error.problems]
        return None, sorted(faults)
    if faults or _is_within_limits(key, checked):
        return checked, faults
    return checked, [("", f"must be {allowed(key)}, got {value!r}")]


def _faults_inside(key: str, words: Sequence[object]) -> list[tuple[str, str]]:
    """Return what is wrong with the words of a list, as (place, message) of each faulty word."""
    wrong = [index for index, word in enumerate(words) if isinstance(word, str) and (not word or "\0" in word)]
    return [(f"[{index}]", f"must not be empty nor hold NUL; it must be {allowed(key)}") for index in wrong]


def _is_within_limits(key: str, value: object) -> bool:
    rule = rules(key)
    if rule.choices:
        return value in rule.choices
    if isinstance(value, int | float):
        return (rule.minimum is None or value >= rule.minimum) and (rule.maximum is None or value <= rule.maximum)
    words = value if isinstance(value, tuple) else (value,)
    return all(word and "\0" not in word for word in words)
