"""What is wrong with a JSON text that the parser refuses.

Owns telling apart what is no JSON at all from what is JSON but holds something that no value here can represent: a lone
surrogate, a number beyond a double, nesting without end. The latter is masked so that the rest (above all the id of the
request) can be read, and a client hears which of its params is at fault. Runs only on texts that were refused.
"""

import math
import re

Problem = dict[str, str]
"""``{"path": "$.argv[1]", "error": "expected string, got null"}``; the offending value itself is never repeated."""

MAX_DEPTH = 64
"""Levels of nesting in one message: the deepest legal message has five; the JSON parser itself gives up at 1024."""

MAX_DIAGNOSED = 1 << 20
"""Bytes of a faulty message that are looked into: 0.3 s of CPU. A longer one is only called unreadable."""

_SHOWN_STEPS = 6
"""Steps of a path that an error shows: enough to name the param."""

_WORD = re.compile(
    r'"(?:[^"\\]++|\\.)*+"'  # a string; possessive, or one without end would be looked through again from each quote
    r'|(?P<endless>".*+)'
    r"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"  # a number
    r"|\s+|.",
    re.DOTALL,
)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
"""A string by the grammar (RFC 8259 section 7): what is none is for the parser to refuse."""

_DIGITS = frozenset("0123456789")
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class _Position:
    """Where a scan over JSON words stands, as a stack of keys and indexes."""

    def __init__(self) -> None:
        self.stack: list[str | int] = []
        self.expects_key = False

    def path(self) -> str:
        steps = self.stack[:-1] if self.expects_key else self.stack  # a key is its object's, not its neighbour's
        shown = steps[:_SHOWN_STEPS]
        return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in shown)

    def feed(self, word: str) -> None:
        if word == "{":
            self.stack.append("")
            self.expects_key = True
        elif word == "[":
            self.stack.append(0)
            self.expects_key = False
        elif word in "}]" and self.stack:
            self.stack.pop()
            self.expects_key = False
        elif word == "," and self.stack:
            top = self.stack[-1]
            self.expects_key = isinstance(top, str)
            if isinstance(top, int):
                self.stack[-1] = top + 1
        elif self.expects_key and word[0] == '"' and self.stack:
            self.stack[-1] = word[1:-1][:64]
            self.expects_key = False


def mask(text: bytes) -> tuple[str, list[Problem]]:
    """Replace what cannot be represented by null, 0 or an empty string, and say where each stood.

    Raises:
        ValueError: the text is not UTF-8, holds a string without end, or is too long to look into.
    """
    if len(text) > MAX_DIAGNOSED:
        raise ValueError(f"longer than {MAX_DIAGNOSED} bytes")
    out: list[str] = []
    problems: list[Problem] = []
    position = _Position()
    hidden = 0  # levels below the deepest one that is kept
    for match in _WORD.finditer(text.decode()):
        word = match[0]
        if match["endless"]:
            raise ValueError("a string without end")
        if hidden or (word in "{[" and len(position.stack) >= MAX_DEPTH):
            if word in "{[":
                if not hidden:
                    problems.append({"path": position.path(), "error": f"nested deeper than {MAX_DEPTH} levels"})
                    out.append("null")
                hidden += 1
            elif word in "}]":
                hidden -= 1
            continue
        fault = _fault(word)
        if fault:
            problems.append({"path": position.path(), "error": fault})
            out.append('"?"' if position.expects_key else "0" if word[0] != '"' else '""')
        else:
            out.append(word)
        position.feed(word)
    return "".join(out), problems


def _fault(word: str) -> str | None:
    if word[0] == '"':
        if _STRING.fullmatch(word) and _LONE_SURROGATE.search(
            word.replace("\\\\", "  ")
        ):  # an escaped backslash begins no escape
            return "string holds a lone surrogate, which is not a character"
    elif word[-1] in _DIGITS and not math.isfinite(float(word)):
        return f"number of {len(word)} characters is out of range"
    return None
