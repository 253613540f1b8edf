"""From a started program to a daemon, and the word back to whoever started it.

Owns the forks, the descriptors, signals and umask that the daemon begins with, and the readiness pipe. The only user of
python-daemon, whose `DaemonContext` does the double fork. Runs before Trio is imported: a fork copies one thread, so
there must be no other, and an event loop belongs to one process.

    waiting process ── fork ── intermediate ── fork, setsid, fork (DaemonContext) ── daemon
        reads the readiness pipe  ◄──────────────────────────────────────────────  writes to it

The waiting process returns when the daemon has said that it is ready, or why it is not, so that exit code 0 is true.
For that time it is the reaper of all its descendants and thus learns how a daemon ended that said nothing.

python-daemon's defaults are not used, each for a reason: it would not detach when stdin is a socket, it would forbid
core dumps and ignore job control signals in every command that the daemon starts, and it would set the umask to 0.
"""

import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from daemon import DaemonContext

from ccexecd import logs
from ccexecd.pidfile import PidFile

UMASK = 0o077
"""Nobody else reads what the daemon writes. Commands get the umask of whoever started the daemon."""

START_TIMEOUT = 30.0
"""Seconds that a daemon has to become ready."""

END_TIMEOUT = 5.0
"""Seconds that a daemon which will not become ready has to end, by itself or on TERM, before it is killed."""

_TAIL_BYTES = 4096
_TAIL_LINES = 5
"""How much of the log is shown when a daemon ended without a word."""

_REASON_LENGTH = 1000
"""Characters of a reason that are passed on: at most 3000 bytes, and a pipe takes 4096 at once (PIPE_BUF)."""

_PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""

log = logging.getLogger(__name__)


class StartError(Exception):
    """The daemon cannot start; the text tells whoever started it what, why and what to do."""


class Ready(Protocol):
    """What the daemon calls, exactly once, when it answers on all of its sockets."""

    def __call__(self, address: str | None = None) -> None:
        """Tell the waiting process.

        Args:
            address: where clients reach the daemon, if not where the configuration says, as with port 0.
        """


Serve = Callable[[Ready], int]
"""The daemon: returns its exit code, and raises StartError or OSError when it cannot start."""


def run_in_foreground(serve: Serve, *, pidfile: PidFile, keep: Iterable[int] = ()) -> int:
    """Serve in this process, which keeps its parent, its terminal, its stdout and its stderr.

    Args:
        serve: the daemon.
        pidfile: acquired; written now and released at the end.
        keep: descriptors that stay open besides; all others are closed.

    Returns:
        What `serve` returns.

    Raises:
        StartError: the daemon cannot start. Other exceptions of `serve` pass through.
    """
    restore_signals()
    with _open_context(pidfile, keep, detach=False, stdout=sys.stdout, stderr=sys.stderr):
        return _ungrouped(serve, lambda address=None: None)  # noqa: ARG005  # nobody waits


def run_detached(
    serve: Serve,
    *,
    pidfile: PidFile,
    log_file: Path,
    announce: Callable[[int, str | None], None],
    keep: Iterable[int] = (),
    timeout: float = START_TIMEOUT,
) -> int:
    """Serve in a detached process and wait in this one until it is ready; returns in both.

    Args:
        serve: the daemon; its stdin and stdout are /dev/null, its stderr is the log file.
        pidfile: acquired; written by the daemon and released at its end.
        log_file: created with mode 0600 if it is missing.
        announce: called in the waiting process with the daemon's pid and the address that it gave to `Ready`.
        keep: descriptors that stay open in the daemon besides; all others are closed.
        timeout: seconds after which a daemon that is not ready is ended.

    Returns:
        In the waiting process 0, in the daemon what `serve` returned, or 1 for an error that was passed on and logged.

    Raises:
        OSError: the log cannot be opened; nothing has been started.
        StartError: in the waiting process: the daemon did not become ready, and is gone.
    """
    stderr = logs.open_file(log_file)
    log_size = os.fstat(stderr).st_size
    reader, writer = os.pipe2(os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide how the daemon ended
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C waits until `_Watch` heeds it
    child = os.fork()
    if child == 0:
        os.close(reader)
        return _be_the_daemon(serve, _Voice(writer, log_file), pidfile, keep, stderr)
    os.close(writer)
    os.close(stderr)
    pidfile.close()
    pid, address = _Watch(child, reader, log_file, log_size).wait(timeout, mask)
    announce(pid, address)
    return 0


def restore_signals() -> None:
    """Undo what the starter did to this process's signals: a daemon and its commands must hear all of them.

    A shell starts background commands with SIGINT ignored, nohup ignores SIGHUP, and some launchers leave signals
    blocked; all of it is inherited. What Python itself ignores stays so.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def reason_of(error: Exception) -> str:
    """Put an error into words for the person who started the daemon."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _open_context(
    pidfile: PidFile, keep: Iterable[int], *, detach: bool, stdout: IO[Any] | None, stderr: IO[Any]
) -> DaemonContext:
    with Path(os.devnull).open("r+b", buffering=0) as null:
        context = DaemonContext(
            detach_process=detach,
            working_directory="/",
            umask=UMASK,
            prevent_core=False,
            signal_map={},
            files_preserve=[pidfile, *keep],
            pidfile=pidfile,
            stdin=null,
            stdout=stdout or null,
            stderr=stderr,
        )
        context.open()
    return context


def _ungrouped(serve: Serve, ready: Ready) -> int:
    """Call the daemon; a reason for people comes out of the groups that its nurseries wrapped around it."""
    try:
        return serve(ready)
    except BaseExceptionGroup as group:
        expected, unexpected = group.split((StartError, OSError))
        if unexpected or not expected:
            raise
        raise StartError("; ".join(dict.fromkeys(map(reason_of, _leaves(expected))))) from group


def _leaves(group: BaseExceptionGroup[Any]) -> list[Any]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _be_the_daemon(serve: Serve, voice: "_Voice", pidfile: PidFile, keep: Iterable[int], stderr: int) -> int:
    restore_signals()
    try:
        with os.fdopen(stderr, "wb", buffering=0) as log_stream:
            context = _open_context(pidfile, [*keep, voice.fd], detach=True, stdout=None, stderr=log_stream)
        with context:
            voice.say(pid=os.getpid())
            return _ungrouped(serve, voice)
    except (StartError, OSError) as error:
        log.critical("%s", reason_of(error), exc_info=None if isinstance(error, StartError) else error)
        voice.say(error=reason_of(error))
        return 1
    except BaseException as error:
        voice.say(error=f"internal error, see {voice.log_file}: {type(error).__name__}: {error}")
        raise


class _Voice:
    """The daemon's end of the readiness pipe: one JSON object per line."""

    def __init__(self, fd: int, log_file: Path) -> None:
        self.fd = fd
        self.log_file = log_file

    def __call__(self, address: str | None = None) -> None:
        self.say(address=address)
        os.close(self.fd)
        self.fd = -1

    def say(self, **message: object) -> None:
        """Write one message; after the last one, an error, the end of the process closes the pipe."""
        if self.fd < 0:
            return  # it was ready, and whoever waited has gone
        short = {key: value[:_REASON_LENGTH] if isinstance(value, str) else value for key, value in message.items()}
        with suppress(OSError):  # whoever waited was killed; the daemon is wanted all the same
            os.write(self.fd, json.dumps(short, ensure_ascii=False).encode(errors="replace") + b"\n")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A time in which Ctrl-C waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Watch:
    """The waiting process's side."""

    def __init__(self, child: int, reader: int, log_file: Path, log_size: int) -> None:
        self._pid = child  # until the daemon has told its own, first of all
        self._is_introduced = False
        self._reader = reader
        self._received = b""
        self._log_file = log_file
        self._log_size = log_size

    def wait(self, timeout: float, mask: set[int]) -> tuple[int, str | None]:
        """Return pid and address of the daemon once it is ready.

        Args:
            timeout: seconds that it has.
            mask: signals to block from now on; Ctrl-C ends the daemon.

        Raises:
            StartError: it is not, and it is gone.
        """
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return self._listen(time.monotonic() + timeout)
        except TimeoutError:
            self._end()
            raise StartError(f"the daemon was not ready after {timeout:g} s and was ended{self._tail()}") from None
        except KeyboardInterrupt:
            self._end()
            raise StartError("interrupted; the daemon was ended") from None
        finally:
            os.close(self._reader)

    def _listen(self, deadline: float) -> tuple[int, str | None]:
        reason = None
        while message := self._next(deadline):
            if "address" in message:
                return self._pid, message["address"]
            reason = message.get("error", reason)
        ending = self._ending(self._exit_status(END_TIMEOUT))  # also after a reason: what was refused is gone then
        raise StartError(reason or f"the daemon {ending} before it was ready{self._tail()}")

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message; None when the daemon has closed the pipe."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while b"\n" not in self._received:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            with _uninterrupted():  # what has been read is known then
                received = os.read(self._reader, select.PIPE_BUF)
                self._received += received
            if not received:
                return None
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "pid" in message:
            self._pid, self._is_introduced = message["pid"], True
        return message

    def _end(self) -> None:
        with suppress(TimeoutError):  # an interrupt may come while the daemon is still on its way
            deadline = time.monotonic() + END_TIMEOUT
            while not self._is_introduced and self._next(deadline):
                pass
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):  # not reaped by anybody but us: the number is still its own
                os.kill(self._pid, number)
            if self._exit_status(END_TIMEOUT) is not None:
                return

    def _exit_status(self, timeout: float) -> int | None:
        """Wait for the daemon's end, as its reaper, and return its wait status; None when it is not known."""
        deadline = time.monotonic() + timeout
        try:
            process = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return None
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            os.close(process)
        while True:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                # Its parent, which forked it, is still on its way out: only then is it ours, and nothing tells of it.
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.01)
            else:
                return status if pid else None

    @staticmethod
    def _ending(status: int | None) -> str:
        if status is None:
            return "ended"
        code = os.waitstatus_to_exitcode(status)
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def _tail(self) -> str:
        """Return the last lines that this start wrote to the log, as the rest of a sentence."""
        with suppress(OSError), self._log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_size, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
            if lines:
                return f"; {self._log_file} ends with:\n" + "\n".join(f"  {line}" for line in lines)
        return f"; {self._log_file} says nothing about it"
