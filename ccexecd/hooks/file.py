"""The hooks file: TOML with one table for each hook (`core.hooks` says what its keys mean).

Owns reading and checking it; all faults are reported at once, each with its place. The programs that the file names run
as the daemon's user, so the file and these programs must be writable by nobody but that user and root. Must not call
any hook, and must not import Trio: a configuration is checked before the daemon forks.
"""

import os
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from ccexecd.core.hooks import Hook, HookEvent
from ccexecd.core.patterns import PatternError, check
from ccexecd.hooks import entry
from ccexecd.operator_file import Fault, FaultyFileError, read, structured
from ccexecd.protocol.codec import Count, Seconds, Text

MOST_HOOKS = 100
"""Hooks of one file at most: the conditions of each are checked for every execution."""

LONGEST_TIMEOUT = 3600.0
"""Seconds that may be set as a call's time-out: during `pre_execute`, a client waits."""

LEAST_BATCH, MOST_BATCH = 1024, 1 << 20
"""Bytes that may be set for a batch of output."""

LONGEST_NAME = 100
"""Characters of a hook's name."""

_Texts = tuple[Text, ...]


@attrs.frozen
class _Hook:
    """One `[[hook]]` table of the file."""

    name: Text
    events: tuple[HookEvent, ...]
    run: _Texts = ()
    entry_point: Text = Text("")
    timeout: Seconds = Seconds(10.0)
    required: bool = False
    pass_environment: _Texts = ()
    streams: tuple[Any, ...] = ("stdout", "stderr")
    batch_bytes: Count = Count(64 * 1024)
    batch_seconds: Seconds = Seconds(1.0)
    command: _Texts | None = None
    program: _Texts | None = None
    lane: _Texts | None = None
    labels: dict[Text, Text] = attrs.field(factory=dict)
    principal: _Texts | None = None


@attrs.frozen
class _File:
    """The whole file."""

    hook: tuple[_Hook, ...] = ()


def load(file: Path) -> tuple[Hook, ...]:
    """Read the hooks from their file.

    Raises:
        FaultyFileError: the file cannot be used; it holds every fault that was found.
    """
    return parse(read(file, lambda status: _danger_of(status) or _danger_of_folder(file)))


def parse(settings: dict[str, Any]) -> tuple[Hook, ...]:
    """Check the content of a hooks file, and make hooks of it.

    Args:
        settings: the file's content, as the TOML parser returns it.

    Raises:
        FaultyFileError: the content cannot be used; it holds every fault that was found.
    """
    found = structured(settings, _File).hook
    faults = [
        Fault(f"hook[{index}]{place}", message)
        for index, hook in enumerate(found)
        for place, message in (*_faults_of(hook), *_faults_of_program(hook))
    ]
    names = [hook.name for hook in found]
    faults += [
        Fault(f"hook[{index}].name", "another hook has this name")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    if len(found) > MOST_HOOKS:
        faults.append(Fault("hook", f"there are more than {MOST_HOOKS}"))
    if faults:
        raise FaultyFileError(faults)
    return tuple(
        Hook(**attrs.asdict(hook) | {"run": _words_of(hook), "labels": tuple(hook.labels.items())}) for hook in found
    )


def _words_of(hook: _Hook) -> tuple[str, ...]:
    """The words to run. An entry point is called in a process of its own, by the daemon's own Python."""
    return (sys.executable, "-P", entry.__file__, hook.entry_point) if hook.entry_point else hook.run


def _faults_of(hook: _Hook) -> Iterator[Fault]:
    if not hook.name or len(hook.name) > LONGEST_NAME or not hook.name.isprintable():
        yield Fault(".name", f"must have 1 to {LONGEST_NAME} characters that can be printed")
    if not hook.events:
        yield Fault(".events", "must name one event at least")
    if not 0 < hook.timeout <= LONGEST_TIMEOUT:
        yield Fault(".timeout", f"must be more than 0 and at most {LONGEST_TIMEOUT:g} seconds")
    if not LEAST_BATCH <= hook.batch_bytes <= MOST_BATCH:
        yield Fault(".batch_bytes", f"must be from {LEAST_BATCH} to {MOST_BATCH}")
    if not set(hook.streams) <= {"stdout", "stderr"} or not hook.streams:
        yield Fault(".streams", 'must be "stdout", "stderr" or both')
    for field in ("required", "pass_environment"):
        if getattr(hook, field) and "pre_execute" not in hook.events:
            yield Fault(f".{field}", "belongs to the event pre_execute")
    yield from _faults_of_conditions(hook)


def _faults_of_conditions(hook: _Hook) -> Iterator[Fault]:
    for index, name in enumerate(hook.pass_environment):
        if not name or "=" in name:
            yield Fault(f".pass_environment[{index}]", 'must be a name, not empty and without "="')
    for field in ("command", "program", "lane", "principal"):
        for index, pattern in enumerate(getattr(hook, field) or ()):
            yield from _faults_of_pattern(f".{field}[{index}]", pattern)
    for label, pattern in hook.labels.items():
        yield from _faults_of_pattern(f".labels.{label}", pattern)


def _faults_of_pattern(place: str, pattern: str) -> Iterator[Fault]:
    try:
        check(pattern)
    except PatternError as error:
        yield Fault(place, str(error))


def _faults_of_program(hook: _Hook) -> Iterator[Fault]:
    if bool(hook.run) == bool(hook.entry_point):
        yield Fault("", "exactly one of run and entry_point is required")
    elif hook.entry_point:
        known = sorted(metadata.entry_points(group=entry.GROUP).names)
        if hook.entry_point not in known:
            there = f"there are {', '.join(known)}" if known else "there are none"
            yield Fault(".entry_point", f"is not installed in the group {entry.GROUP}, where {there}")
    else:
        message = _fault_of_file(hook.run[0])
        if message:
            yield Fault(".run[0]", message)


def _fault_of_file(program: str) -> str:
    """What is wrong with a program as a hook, and what to do; empty if nothing is."""
    if not program.startswith("/"):
        return "must be the absolute path of a program"
    try:
        there = Path(program).stat()
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISREG(there.st_mode) or not os.access(program, os.X_OK):
        return "is not a program that may be executed: chmod +x"
    return _danger_of(there) or _danger_of_folder(Path(program))


def _danger_of(there: os.stat_result) -> str:
    """Says who else may write a file, and what to do about it; empty if only root and the daemon's user may."""
    if there.st_uid not in (0, os.geteuid()):
        return f"belongs to the user {there.st_uid}, who could have anything run; make it yours: chown"
    if there.st_mode & stat.S_IWOTH or (there.st_mode & stat.S_IWGRP and there.st_gid not in (0, os.getegid())):
        return "may be written by others, who could have anything run; take that away: chmod go-w"
    return ""


def _danger_of_folder(file: Path) -> str:
    """The same for a file's directory, in which others could replace the file; empty if nobody can."""
    for folder in {file.parent, file.resolve().parent}:  # both a link and its target can be replaced
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return "is in a directory that everybody may write, who could have anything run; take that away: chmod o-w"
    return ""
