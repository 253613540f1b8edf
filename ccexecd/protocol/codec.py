"""JSON text to checked values and back: the trust boundary's converter.

Owns two steps. `loads` turns bytes into plain JSON values and, where a message is JSON but holds what no value here can
represent, says where instead of calling it unreadable (see `diagnosis`). `structure` turns plain values into attrs
classes without coercion: cattrs as shipped makes letters of ``"ls -l"`` and True of ``"false"``. Must not know any
method.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NewType, TypeVar, get_args, get_origin

import attrs
import cattrs
import orjson
from cattrs.cols import is_mapping, is_sequence
from cattrs.errors import AttributeValidationNote, IterableValidationNote
from cattrs.gen import make_dict_structure_fn

from ccexecd.protocol.diagnosis import Problem, mask

T = TypeVar("T")

Text = NewType("Text", str)
"""A string that the kernel can take as a word: no NUL."""

Seconds = NewType("Seconds", float)
"""A number of seconds from 0 to `MAX_SECONDS`."""

UNSAID = Seconds(-1.0)
"""A default that no message can say, where leaving seconds out and null mean two things."""

MAX_SECONDS = 1e9
"""31 years: what every clock, calendar and system call that comes after can count."""

Count = NewType("Count", int)
"""An integer from 0 to `MAX_COUNT`."""

MAX_COUNT = (1 << 63) - 1
"""The largest integer that SQLite, system calls and most clients can hold."""

Cells = NewType("Cells", int)
"""Columns or rows of a terminal: 1 to `MAX_CELLS`."""

MAX_CELLS = 65535
"""What the kernel keeps of a terminal's size is an unsigned short (struct winsize, ioctl_tty(2))."""

MAX_PROBLEMS = 20
"""Faults that are looked for in one array or object, and named in one answer: who sent more mends these first."""

_SHOWN_KEY = 64
"""Characters of a key that an error shows."""

_JSON_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}


class JSONSyntaxError(ValueError):
    """The bytes are not JSON."""


class StructureError(ValueError):
    """Plain JSON values do not have the shape that a class asks for.

    Attributes:
        problems: one entry for each fault, with its path; no more than `MAX_PROBLEMS`.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems[:MAX_PROBLEMS]
        super().__init__("; ".join(f"{p['path']}: {p['error']}" for p in self.problems))


class WireTypeError(TypeError):
    """A value has another JSON type than the one asked for; the text names both types and not the value."""


def dumps(value: object) -> bytes:
    """Encode plain values, attrs-free, as compact UTF-8 JSON."""
    return orjson.dumps(value)


def loads(text: bytes) -> tuple[Any, list[Problem]]:
    """Decode one JSON text.

    Returns:
        The value, and the places in it that no value could represent (each replaced by null or 0 in the value).

    Raises:
        JSONSyntaxError: it is not JSON at all; the text says where.
    """
    try:
        return orjson.loads(text), []
    except orjson.JSONDecodeError as error:
        try:
            masked, problems = mask(text)
            return orjson.loads(masked), problems
        except ValueError:  # not UTF-8, too long to look into, or not JSON either way
            raise JSONSyntaxError(f"not valid JSON: {error}") from None


def type_name(value: object) -> str:
    """The JSON name of a value's type, for error texts."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def _exactly(wanted: type[T]) -> Callable[[Any, Any], T]:
    def structure_exact(value: Any, _: Any) -> T:
        if type(value) is wanted:  # exact: True is not 1
            return value
        raise WireTypeError(f"expected {_JSON_NAMES[wanted]}, got {type_name(value)}")

    return structure_exact


def _structure_float(value: Any, _: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise WireTypeError(f"expected number, got {type_name(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("number must be finite")
    return number


def _structure_text(value: Any, _: Any) -> Text:
    if type(value) is not str:
        raise WireTypeError(f"expected string, got {type_name(value)}")
    if "\0" in value:
        raise ValueError(f"string holds a NUL at character {value.index(chr(0)) + 1}, which no program can be given")
    return Text(value)


def _structure_seconds(value: Any, _: Any) -> Seconds:
    seconds = _structure_float(value, float)
    if seconds < 0:
        raise ValueError("must not be negative")
    if seconds > MAX_SECONDS:
        raise ValueError(f"must be at most {MAX_SECONDS:g} seconds")
    return Seconds(seconds)


def _structure_count(value: Any, _: Any) -> Count:
    if type(value) is not int:
        raise WireTypeError(f"expected integer, got {type_name(value)}")
    if value < 0:
        raise ValueError("must not be negative")
    if value > MAX_COUNT:
        raise ValueError(f"must be at most {MAX_COUNT}")
    return Count(value)


def _structure_cells(value: Any, _: Any) -> Cells:
    if type(value) is not int:
        raise WireTypeError(f"expected integer, got {type_name(value)}")
    if not 1 <= value <= MAX_CELLS:
        raise ValueError(f"must be from 1 to {MAX_CELLS}")
    return Cells(value)


def _structure_literal(value: Any, literal: Any) -> Any:
    allowed = get_args(literal)
    if type(value) is str and value in allowed:
        return value
    raise ValueError("expected one of " + ", ".join(f'"{name}"' for name in allowed))


def _structure_none(value: Any, _: Any) -> None:
    if value is not None:
        raise WireTypeError(f"expected null, got {type_name(value)}")


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


@functools.cache
def _converter(*, forbid_extra_keys: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=forbid_extra_keys, prefer_attrib_converters=False)
    for exact in (str, int, bool):
        converter.register_structure_hook(exact, _exactly(exact))
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook(type(None), _structure_none)
    named: tuple[tuple[Any, Callable[[Any, Any], Any]], ...] = (
        (Text, _structure_text),
        (Seconds, _structure_seconds),
        (Count, _structure_count),
        (Cells, _structure_cells),
    )
    for name, hook in named:
        converter.register_structure_hook_func(functools.partial(operator.is_, name), hook)
    converter.register_structure_hook_func(_is_literal, _structure_literal)

    @converter.register_structure_hook_factory(is_sequence)
    def _sequences(cls: Any, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
        return _array(get_args(cls)[0], list, conv)

    @converter.register_structure_hook_factory(_is_tuple)
    def _tuples(cls: Any, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
        return _array(get_args(cls)[0], tuple, conv)

    @converter.register_structure_hook_factory(is_mapping)
    def _mappings(cls: Any, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
        key, element = get_args(cls)
        return _object(key, element, conv)

    @converter.register_structure_hook_factory(attrs.has)
    def _classes(cls: Any, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
        attrs.resolve_types(cls)  # else the annotation None counts as none, and its field takes anything
        build = make_dict_structure_fn(cls, conv, _cattrs_forbid_extra_keys=forbid_extra_keys)

        def structure_class(value: Any, t: Any) -> Any:
            _demand(value, dict)
            return build(value, t)

        return structure_class

    return converter


def _demand(value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise WireTypeError(f"expected {_JSON_NAMES[kind]}, got {type_name(value)}")


def _array(element: Any, build: Callable[[Iterable[Any]], Any], conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
    one = conv.get_structure_hook(element)

    def structure_array(value: Any, _: Any) -> Any:
        _demand(value, list)
        return build(_each(enumerate(value), lambda _, each: one(each, element)))

    return structure_array


def _object(key: Any, element: Any, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
    name, one = conv.get_structure_hook(key), conv.get_structure_hook(element)

    def structure_object(value: Any, _: Any) -> Any:
        _demand(value, dict)
        return dict(_each(value.items(), lambda k, each: (name(k, key), one(each, element))))

    return structure_object


def _each(items: Iterable[tuple[Any, Any]], structure_one: Callable[[Any, Any], T]) -> list[T]:
    """Structure the elements of a container, and look no further than `MAX_PROBLEMS`: a fault costs 2 KB of memory."""
    done: list[T] = []
    faults: list[Exception] = []
    for place, value in items:
        try:
            done.append(structure_one(place, value))
        except (cattrs.BaseValidationError, WireTypeError, ValueError) as fault:
            shown = place[:_SHOWN_KEY] if isinstance(place, str) else place
            fault.add_note(IterableValidationNote("", shown, None))
            faults.append(fault)
            if len(faults) == MAX_PROBLEMS:
                break
    if faults:
        raise cattrs.IterableValidationError("", faults, list)
    return done


def structure(value: object, cls: type[T], *, ignore_unknown: bool = False) -> T:
    """Build an attrs class from plain JSON values, strictly.

    Args:
        value: what `loads` returned.
        cls: the attrs class.
        ignore_unknown: let unknown keys pass unread, as clients from before `ccexec.v1` expect.

    Raises:
        StructureError: with the path of everything that is wrong.
    """
    try:
        return _converter(forbid_extra_keys=not ignore_unknown).structure(value, cls)
    except (cattrs.BaseValidationError, WireTypeError, ValueError, TypeError) as error:
        raise StructureError(_problems(error)) from None


def _problems(error: BaseException) -> list[Problem]:
    found: list[Problem] = []
    if isinstance(error, BaseExceptionGroup):  # cattrs raises groups; a class's own check raises StructureError in one
        own, rest = error.split(StructureError)
        found.extend(_of_own_checks(own, "$"))
        if rest is None:
            return found
        error = rest
    texts: list[str] = []

    def describe(fault: BaseException, _: type | None) -> str:
        texts.append(_describe(fault))
        return ""

    paths = [line.removeprefix(" @ ") for line in cattrs.transform_error(error, format_exception=describe)]
    found.extend({"path": path, "error": text} for path, text in zip(paths, texts, strict=True))
    return found


def _of_own_checks(error: BaseException | None, path: str) -> Iterator[Problem]:
    """What the checks of classes complain of: their paths begin at their own object, which is at `path`."""
    if isinstance(error, StructureError):
        for problem in error.problems:
            yield {**problem, "path": path + problem["path"].removeprefix("$")}
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            names = (note.name for note in getattr(inner, "__notes__", ()) if isinstance(note, AttributeValidationNote))
            yield from _of_own_checks(inner, ".".join([path, *names]))


def _describe(error: BaseException) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        names = ", ".join(sorted(name[:_SHOWN_KEY] for name in error.extra_fields)[:MAX_PROBLEMS])
        return f"unknown field: {names}; known: {', '.join(f.name for f in attrs.fields(error.cl))}"
    if isinstance(error, KeyError):
        return "required"
    if isinstance(error, WireTypeError | ValueError) and error.args:
        return str(error.args[0])
    return "not valid"
