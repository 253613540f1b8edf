"""What a hook is, which executions it is about, what it may answer, and how output is gathered for it.

Owns the values and the arithmetic. Must not call anything.
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
"""When a hook may be called, as people write it."""

HELD_BATCHES = 16
"""Batches of output that are held for a hook that is still busy with an earlier one; what does not fit is counted."""

_LONGEST_TAIL = 3
"""Bytes of the longest beginning of a code point that is not all of it (UTF-8)."""


@attrs.frozen
class Hook:
    """One hook. A condition that is None holds for everything.

    Attributes:
        name: what people call it.
        events: when it is called.
        run: the words of its program; of an entry point, those that call it.
        entry_point: the entry point's name, where it is one.
        timeout: seconds that one call may take.
        required: when it fails, the command is refused; of `pre_execute` only.
        pass_environment: names whose values it is told; of `pre_execute` only.
        streams, batch_bytes, batch_seconds: what it hears of output, how much at a time, and how long that is gathered.
        command: patterns; the command as people read it matches one of these.
        program: patterns; the name that the program is called by, without its folder, matches one of these.
        lane: patterns; the lane matches one of these.
        labels: the labels of these names are there, and match these patterns.
        principal: patterns; who asked matches one of these.
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
            event: which.
            spec: what was asked for.
            principal: by whom.
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
    """What a hook makes of a command.

    Attributes:
        environment: names that are set.
        unset: names that are taken away.
        wrap: words that are put in front of the command's own.
    """

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    unset: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.environment or self.unset or self.wrap)

    def of(self, spec: Spec) -> Spec:
        """The command with it. A command string that is wrapped is its shell's words from then on."""
        env = {name: value for name, value in {**spec.env, **self.environment}.items() if name not in self.unset}
        unset = tuple(name for name in spec.unset if name not in self.environment) + self.unset
        spec = attrs.evolve(spec, env=env, unset=unset)
        if not self.wrap:
            return spec
        argv = (*self.wrap, *spec.argv)
        return attrs.evolve(spec, argv=argv, shell=False, display=shlex.join(argv))


@attrs.frozen
class Prepared:
    """What hooks have made of a command.

    Attributes:
        spec: what is to be run.
        hooks: the names of those that have changed it.
    """

    spec: Spec
    hooks: tuple[str, ...] = ()


class HookRefusedError(Exception):
    """A hook does not let a command run; the text says which and why."""


class Batch:
    """Output that is gathered for a hook: whole lines, as far as they fit.

    Args:
        most: bytes of one batch.

    Attributes:
        missed: bytes that nobody has been told of, because there were too many.
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
        """Output has come.

        Args:
            stream: from where.
            received: what.
            most: bytes for which there is room elsewhere; there may be less here.
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
        """Whether there is enough for one."""
        return any(len(held) >= self._most for held in self._held.values())

    def take(self, *, is_last: bool = False) -> dict[str, object] | None:
        """What a hook is to be told now; None where there is no whole line yet.

        Args:
            is_last: nothing follows, so that what is unfinished stays so.
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
        """How much goes into one batch: whole lines; of a longer line, whole code points."""
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
