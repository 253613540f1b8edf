"""Chooses how a command string is run on this machine: by which shell, or without one.

Owns the look at programs and shells on the disk; the look at the string is in `core.shells`. Must not start anything.
"""

import functools
import os
import shutil
import struct
from pathlib import Path

from ccexecd.core import shells

_QUICK = "dash"
"""The one small shell that has been compared with Bash (tests/process/test_shells.py): /bin/sh of Debian and Ubuntu."""


_HEAD = 4096
"""Bytes of a program that are looked at: linkers put the list of segments and the loader's name there. A program that
has them further behind is left to Bash."""

_LINE = 256
"""Bytes of an interpreter line (`#!`) that the kernel reads (BINPRM_BUF_SIZE of linux/binfmts.h)."""

# elf(5), for words of 64 bits in the machine's own byte order
_ELF = struct.Struct("=16xH14xQ14xHH")  # kind of file; segments: place, size of one, how many
_SEGMENT = struct.Struct("=I4xQ16xQ16x")  # kind, place, size
_STARTED = frozenset({2, 3})  # ET_EXEC, ET_DYN
_LOADED, _LOADER = 1, 3  # PT_LOAD, PT_INTERP


@functools.cache
def default_shell() -> str:
    """Return Bash if it is installed, since clients send Bash syntax; looked for once."""
    return shutil.which("bash") or "/bin/sh"


@functools.cache
def quick_shell() -> str | None:
    """Return a shell that starts faster than Bash; None if this machine has none."""
    shell = Path("/bin/sh")
    return str(shell) if shell.resolve().name == _QUICK else None


@functools.lru_cache(maxsize=64)
def _same_as_built_in(*words: str) -> str | None:
    """Return the system's own program that does exactly what a shell's built-in command does; None if there is none."""
    return shutil.which(words[0], path=os.confstr("CS_PATH")) if words in {("true",), ("false",)} else None


def argv_of(command: str, path: str) -> tuple[str, ...]:
    """Return the argv that runs a command string: with the default shell, or faster if the result is the same.

    A single program with its words needs no shell. Several simple commands are run by the quick shell. Left to the
    default shell are scripts without an interpreter line, which the calling shell runs itself, and programs that are
    missing or cannot be started, since the error message is the shell's.

    Args:
        command: the command string.
        path: PATH of its environment, which has to be plain (`core.shells.is_plain`).
    """
    by_default = (default_shell(), "-c", command)
    commands = shells.simple_commands_of(command)
    if commands is None:
        return by_default
    if len(commands) == 1 and (program := _same_as_built_in(*commands[0])) is not None:
        return (program,)
    programs = [shells.program_of(words) for words in commands]
    if not all(_is_program(name, path) for name in programs if name is not None):
        return by_default
    if programs == [commands[0][0]]:
        return tuple(commands[0])
    quick = quick_shell()
    return (quick, "-c", command) if quick is not None else by_default


def _is_program(name: str, path: str) -> bool:
    """Whether a name stands, in any working directory, for a file that the kernel can start without a shell."""
    if not all(folder.startswith("/") for folder in path.split(os.pathsep)):
        return False
    found = shutil.which(name, path=path)
    if found is None:
        return False
    head = _head_of(found)
    if not head.startswith(b"#!"):
        return _is_binary(head)
    interpreter = _interpreter_of(head)
    return interpreter is not None and os.access(interpreter, os.X_OK) and _is_binary(_head_of(interpreter))


def _head_of(path: str | bytes) -> bytes:
    """Return the first `_HEAD` bytes of a file; empty if it may not be read, even if it may be executed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, _HEAD)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _interpreter_of(head: bytes) -> bytes | None:
    """Return the absolute path in an interpreter line; None if there is none, or a shell might read it differently."""
    line, found, _ = head[2:_LINE].partition(b"\n")
    if b"\0" in line or not (found or len(head) < _LINE):
        return None
    words = line.replace(b"\t", b" ").split(b" ")
    first = next(filter(None, words), b"")
    return first if first.startswith(b"/") else None


def _is_binary(head: bytes) -> bool:
    """Whether a file's head is that of a program for this machine whose loader, if it names one, exists."""
    if len(head) < _ELF.size or _kind_of(head) != _own_kind():
        return False
    start, at, size, count = _ELF.unpack_from(head)
    if start not in _STARTED or size != _SEGMENT.size or at + size * count > len(head):
        return False
    segments = {kind: (offset, length) for kind, offset, length in _SEGMENT.iter_unpack(head[at : at + size * count])}
    if _LOADER not in segments:
        return _LOADED in segments
    offset, length = segments[_LOADER]
    loader = head[offset : offset + length]
    return loader.startswith(b"/") and loader.endswith(b"\0") and os.access(loader.rstrip(b"\0"), os.X_OK)


def _kind_of(head: bytes) -> bytes:
    """Return the part of an ELF head that tells the machine: magic, word size, byte order, version, architecture."""
    return head[:7] + head[18:20]


@functools.cache
def _own_kind() -> bytes | None:
    """Return `_kind_of` the running Python; None if it has no words of 64 bits, the only ones that are read here."""
    kind = _kind_of(_head_of("/proc/self/exe"))
    return kind if kind.startswith(b"\x7fELF\2") else None
