"""Hooks as values: what triggers one, which executions it is for, what it may change, how output is batched for it.

Owns these values and the arithmetic. Must not call anything.
"""

import shlex
from collections.abc import Mapping
from typing import Literal, get_args

import attrs

from ccexecd.core.entries import Stream
from ccexecd.core.patterns import matches
from ccexecd.core.spec import Spec

HookEvent = Literal["pre_execute", "post_execute", "on_output", "on_error", "on_stall"]
EVENTS: tuple[HookEvent, ...] = get_args(HookEvent)
"""The events at which a hook may be called, by their names in the hooks file."""

HELD_BATCHES = 16
"""Batches of output that are kept for a hook that is busy with an earlier one; further output is only counted."""

_LONGEST_TAIL = 3
"""Bytes of the longest unfinished code point (UTF-8)."""


@attrs.frozen
class Hook:
    """One hook. A condition that is None holds for everything.

    Attributes:
        name: its name in the hooks file.
        events: the events at which it is called.
        run: the words of its program; for an entry point, those of the program that calls it.
        entry_point: name of the Python entry point; empty if it is a program.
        timeout: seconds that one call may take.
        required: whether its failure refuses the command; for `pre_execute` only.
        pass_environment: names of environment variables whose values it is given; for `pre_execute` only.
        streams, batch_bytes, batch_seconds: streams that it gets, size of a batch, and seconds until one is sent.
        command: patterns; the command as people read it matches one of these.
        program: patterns; the name that the program is called by, without its folder, matches one of these.
        lane: patterns; the lane matches one of these.
        labels: the labels of these names are there, and match these patterns.
        principal: patterns; the principal's name matches one of these.
    """

    name: str
    events: tuple[HookEvent, ...]
    run: tuple[str, ...]
    entry_point: str = ""
    timeout: float = 10.0
    required: bool = False
    pass_environment: tuple[str, ...] = ()
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    batch_bytes: int = 64 * 1024
    batch_seconds: float = 1.0
    command: tuple[str, ...] | None = None
    program: tuple[str, ...] | None = None
    lane: tuple[str, ...] | None = None
    labels: tuple[tuple[str, str], ...] = ()
    principal: tuple[str, ...] | None = None

    def wants(self, event: HookEvent, spec: Spec, principal: str) -> bool:
        """Whether it is to be called at an event of an execution.

        A text that is too long for a regular expression counts as matching: nobody gets past a hook by writing more.

        Args:
            event: the event.
            spec: the spec of the execution.
            principal: name of the principal that asked for it.
        """
        return (
            event in self.events
            and _holds(self.command, spec.display)
            and _holds(self.program, called_of(spec))
            and _holds(self.lane, spec.lane)
            and _holds(self.principal, principal)
            and all(name in spec.labels and _holds((each,), spec.labels[name]) for name, each in self.labels)
        )


def _holds(patterns: tuple[str, ...] | None, text: str) -> bool:
    return patterns is None or any(matches(pattern, text) is not False for pattern in patterns)


def called_of(spec: Spec) -> str:
    """The name that a program is called by, without its folder; of a command string, its first word's."""
    words = spec.display.split(maxsplit=1) if spec.shell else spec.argv
    return words[0].rpartition("/")[2] if words else ""


@attrs.frozen
class Change:
    """The change of a command that a hook asks for.

    Attributes:
        environment: environment variables to set.
        unset: names of environment variables to remove.
        wrap: words to put in front of the command's own.
    """

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    unset: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.environment or self.unset or self.wrap)

    def of(self, spec: Spec) -> Spec:
        """Return a spec with this change. A wrapped command string becomes the words that call its shell."""
        env = {name: value for name, value in {**spec.env, **self.environment}.items() if name not in self.unset}
        unset = tuple(name for name in spec.unset if name not in self.environment) + self.unset
        spec = attrs.evolve(spec, env=env, unset=unset)
        if not self.wrap:
            return spec
        argv = (*self.wrap, *spec.argv)
        return attrs.evolve(spec, argv=argv, shell=False, display=shlex.join(argv))


@attrs.frozen
class Prepared:
    """A command after its `pre_execute` hooks.

    Attributes:
        spec: the spec that is to be run.
        hooks: names of the hooks that have changed it.
    """

    spec: Spec
    hooks: tuple[str, ...] = ()


class HookRefusedError(Exception):
    """A hook refuses a command; the text says which hook and why."""


class Batch:
    """Output that is gathered for a hook: whole lines, as far as they fit.

    Args:
        most: bytes of one batch at most.

    Attributes:
        missed: bytes of output that were left out because there was no room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Stream, bytearray] = {}
        self._told: dict[Stream, int] = {}  # how far, in each stream
        self._skipped: dict[Stream, int] = {}  # bytes that are missing behind what is held
        self.missed = 0

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(map(len, self._held.values()))

    def add(self, stream: Stream, received: bytes, most: int) -> None:
        """Add output.

        Args:
            stream: its stream.
            received: the bytes of one read.
            most: bytes that may still be kept, over all batches; there may be less room here.
        """
        held = self._held.setdefault(stream, bytearray())
        room = 0 if self._skipped.get(stream) else max(min(self._most * HELD_BATCHES - len(held), most), 0)
        held += received[:room]
        lost = len(received) - min(room, len(received))
        if lost:
            self._skipped[stream] = self._skipped.get(stream, 0) + lost
            self.missed += lost

    @property
    def is_full(self) -> bool:
        """Whether there are enough bytes for a batch."""
        return any(len(held) >= self._most for held in self._held.values())

    def take(self, *, is_last: bool = False) -> dict[str, object] | None:
        """Return the next batch as JSON values; None if there is no whole line yet.

        Args:
            is_last: nothing follows, so that an unfinished line is included.
        """
        told: dict[str, object] = {}
        missed = 0
        for stream, held in self._held.items():
            skipped = self._skipped.get(stream, 0)
            size = self._cut(held, to_the_end=is_last or bool(skipped))
            piece = bytes(held[:size])
            del held[:size]
            if piece:
                offset = self._told.get(stream, 0)
                told[stream] = {"offset": offset, "data": piece.decode(errors="replace")}
                self._told[stream] = offset + size
            if skipped and not held:
                self._told[stream] = self._told.get(stream, 0) + skipped
                self._skipped[stream] = 0
                missed += skipped
        return {**told, "missed_bytes": missed} if told or missed else None

    def _cut(self, held: bytearray, *, to_the_end: bool) -> int:
        """Return how many bytes go into one batch: whole lines or, of a line that is too long, whole code points."""
        if to_the_end and len(held) <= self._most:
            return len(held)
        line_end = held.rfind(b"\n", 0, self._most) + 1
        if line_end or len(held) < self._most:
            return line_end
        for back in range(1, _LONGEST_TAIL + 1):
            if held[self._most - back] >= 0xC0:  # the first byte of a code point
                return self._most - back or self._most
            if held[self._most - back] < 0x80:
                break
        return self._most
