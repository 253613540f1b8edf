"""Output that goes into a file instead of a pipe: nothing of it is lost, however late it is read.

Some programs exit before their pipe has taken what they wrote last, and report success (Claude Code in pure JavaScript
loses up to a mebibyte of a 2 MB answer so). A file takes everything at once. Ours lives in memory and has no name; what
has been read is given back to the system. Owns these files and what tells that one has grown (inotify(7)). A program
that writes faster than it is read is not held up by a file, so only what is known to write little gets one.
"""

import contextlib
import ctypes
import fcntl
import logging
import os
import sys
from typing import cast

import trio

from ccexecd.process.pump import READ_SIZE, Pump, Sink, nobody
from ccexecd.sparse import punch_hole

log = logging.getLogger(__name__)

_IN_MODIFY = 0x2  # linux/inotify.h
_EVENT_SIZE = 16  # bytes of an inotify_event without a name, as those of a file itself are
_OVERFLOW = -1  # the number in an event that tells that others were lost
_F_ADD_SEALS, _F_SEAL_SHRINK = 1033, 0x2  # linux/fcntl.h

_GIVEN_BACK = 1024 * 1024
"""Bytes read from a file after which their memory is given back to the system, which costs 5 us each time."""

_libc = ctypes.CDLL(None, use_errno=True)


def open_file() -> tuple[int, int]:
    """Open a file in memory for output.

    It cannot be truncated: a script that opens its own standard output anew (`> /dev/stdout`) fails, and loses nothing.

    Returns:
        A descriptor to read it, and one that appends to it.

    Raises:
        OSError: no descriptors are left.
    """
    ours = os.memfd_create("ccexecd-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(ours, _F_ADD_SEALS, _F_SEAL_SHRINK)
        theirs = os.open(f"/proc/self/fd/{ours}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        os.close(ours)
        raise
    return ours, theirs


def can_watch(pump: Pump) -> bool:
    """Whether a pump can read files; what watches them is made with the first one, and may not be to be had.

    All programs of a user, in all containers, share the instances of inotify(7), as a rule 128.
    """
    try:
        _files_of(pump)
    except OSError as error:
        log.warning("output files cannot be watched (fs.inotify.max_user_instances): %s", error.strerror)
        return False
    return True


def source_of(pump: Pump, fd: int, sink: Sink) -> "FileSource":
    """Have a pump read a file from now on; the source that is returned owns the descriptor.

    Raises:
        OSError: no more files can be watched.
    """
    return _files_of(pump).add(fd, sink)


def _files_of(pump: Pump) -> "Files":
    if pump.files is None:
        pump.also(Files())
    return cast("Files", pump.files)


class FileSource:
    """One output file that is being read; it implements `pump.OutputSource`.

    Attributes:
        is_held: reading is suspended (`hold`).
        ended: set when all of it has been read and no writer is left, or when `close` was called.
    """

    def __init__(self, files: "Files", fd: int, sink: Sink) -> None:
        self._files = files
        self._fd = fd
        self._sink = sink
        self._read = self._given_back = 0  # bytes
        self._is_last = False
        self.is_held = False
        self.ended = trio.Event()

    def read_once(self) -> bool:
        """Read up to `READ_SIZE` bytes and pass them to the sink. Returns whether there were any."""
        received = os.pread(self._fd, READ_SIZE, self._read)
        if not received:
            if self._is_last:
                self._end()
            return False
        self._read += len(received)
        if self._read - self._given_back >= _GIVEN_BACK:
            punch_hole(self._fd, self._given_back, self._read - self._given_back)
            self._given_back = self._read
        self._sink(received)
        return True

    def hold(self) -> None:
        """Suspend reading. Unlike with a pipe, the program goes on writing."""
        self.is_held = True
        self._files.behind.discard(self)

    def go_on(self) -> None:
        """Resume reading."""
        self.is_held = False
        self._files.heed(self)

    def read_end(self) -> None:
        """Note that no writer is left: the source ends when all of the file has been read."""
        self._is_last = True
        self.go_on()

    def close(self) -> None:
        """Read the rest, then close the file."""
        left = os.fstat(self._fd).st_size - self._read if not self.ended.is_set() else 0
        for _ in range(left // READ_SIZE + 1):
            if self.ended.is_set() or not self.read_once():
                break
        if not self.ended.is_set():
            self._end()

    def _end(self) -> None:
        self.hold()
        self._sink = nobody
        self._files.forget(self._fd)
        os.close(self._fd)
        self.ended.set()


class Files:
    """All output files of a daemon, for the pump.

    Raises:
        OSError: no descriptor, or no instance of inotify, is left.

    Attributes:
        fds: descriptors for epoll; one of them is readable when a file has grown or has unread output.
        behind: the files that may have unread output.
    """

    def __init__(self) -> None:
        self._inotify: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            os.close(self._inotify)
            raise
        self.fds: tuple[int, ...] = (self._inotify, self._bell)
        self._is_open = True
        self.behind: set[FileSource] = set()
        self._sources: dict[int, FileSource] = {}  # by watch descriptor (inotify(7))
        self._watches: dict[int, int] = {}  # watch descriptor by the file's descriptor

    def add(self, fd: int, sink: Sink) -> FileSource:
        """Read a file from now on; the source that is returned owns the descriptor.

        Raises:
            OSError: the user watches as many files as the system allows (fs.inotify.max_user_watches).
        """
        watch = _libc.inotify_add_watch(self._inotify, f"/proc/self/fd/{fd}".encode(), _IN_MODIFY)
        if watch < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        source = self._sources[watch] = FileSource(self, fd, sink)
        self._watches[fd] = watch
        self.heed(source)
        return source

    def heed(self, source: FileSource) -> None:
        """Note that a file may have unread output, so that the pump reads it next."""
        if not source.ended.is_set():
            self.behind.add(source)
            if self._is_open:
                os.eventfd_write(self._bell, 1)

    def forget(self, fd: int) -> None:
        """Stop watching a file whose source has ended."""
        watch = self._watches.pop(fd)
        del self._sources[watch]
        if self._is_open:
            _libc.inotify_rm_watch(self._inotify, watch)

    def read_once(self) -> bool:
        """Read the events of inotify and note which files have grown."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        try:
            events = os.read(self._inotify, 4096)
        except BlockingIOError:
            return False
        for at in range(0, len(events), _EVENT_SIZE):
            watch = int.from_bytes(events[at : at + 4], sys.byteorder, signed=True)
            grown = self._sources.values() if watch == _OVERFLOW else filter(None, [self._sources.get(watch)])
            self.behind.update(source for source in grown if not source.is_held)
        return True

    def read_behind(self) -> None:
        """Read once from each file that may have unread output."""
        for source in tuple(self.behind):
            if not source.read_once():
                self.behind.discard(source)

    def close(self) -> None:
        """Stop watching. Executions that are still ending read the rest of their files when they close them."""
        self._is_open = False
        for fd in self.fds:
            os.close(fd)
