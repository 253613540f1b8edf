"""The daemon's log: one JSON object per line, one write per record.

Owns the configuration of `logging`; modules elsewhere only say ``logging.getLogger(__name__)``. Secrets are not logged
in the first place; what looks like one all the same is taken out here (`core.redaction`).

A record is a line and a line is a record, whatever somebody put into it: JSON escapes line feeds, and what else
terminals and editors take for control (DEL, C1, U+2028, U+2029) is escaped as well. A record that cannot be written,
because the disk is full or the reader gone, is counted and forgotten: it must not end the daemon.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import orjson

from ccexecd.core.redaction import Redactor

STDERR = 2

MAX_RECORD = 32 * 1024
"""Bytes of one line: journald cuts lines at 48 KiB (LineMax= in journald.conf(5))."""

SILENCED = ("trio-websocket", "h11", "wsproto")
"""Libraries that log every frame at level debug, peers' data included."""

_MESSAGE_KEPT = 1024
_TRACEBACK_KEPT = 3072
"""Characters of an oversized record that are kept: at most six bytes each, together less than `MAX_RECORD`."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; the others came as `extra`."""

_OURS = frozenset({"ts", "level", "logger", "message", "exception", "traceback", "stack"})

_CONTROL = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")

_RENDERING_FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a faulty `__str__`, `__repr__` or format string raises; a log record must survive it."""

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""Level to syslog priority, for the prefix of sd-daemon(3)."""


class Log:
    """Where the records of this process go.

    Attributes:
        path: the log file; None when records go to stderr.
        lost: records that could not be written.
    """

    def __init__(self, handler: "_LineHandler", path: Path | None) -> None:
        self._handler = handler
        self.path = path

    @property
    def lost(self) -> int:
        """Return the number of records that could not be written."""
        return self._handler.lost

    def set_level(self, level: str) -> None:
        """Log records of this severity and above from now on.

        Args:
            level: a `log_level` of the configuration.
        """
        logging.getLogger().setLevel(level.upper())

    def redact(self, redactor: Redactor) -> None:
        """Take out what looks like a secret to this one, from now on."""
        self._handler.redactor = redactor

    def reopen(self) -> None:
        """Continue in a new file at the same path, after the old one was moved away; nothing to do for stderr.

        Raises:
            OSError: the file cannot be opened; the old one stays in use.
        """
        if self.path is not None:
            fd = open_file(self.path)
            os.dup2(fd, self._handler.fd)  # the same number: stderr, and with it the interpreter's last words, follows
            os.close(fd)


def open_file(path: Path) -> int:
    """Open a log file for appending, with mode 0600 if it is new. A FIFO that nobody reads keeps nobody waiting.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)
    os.set_blocking(fd, True)
    return fd


def configure(
    level: str, *, to: int = STDERR, path: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Log:
    """Send every log record of this process to one descriptor.

    Args:
        level: a `log_level` of the configuration.
        to: the descriptor.
        path: the file behind it; None when there is none to reopen.
        environ: `JOURNAL_STREAM` tells whether the descriptor is systemd's journal, which gets priorities as prefixes.
    """
    handler = _LineHandler(to, has_priorities=_is_journal(to, environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.WARNING)
    log = Log(handler, path)
    log.set_level(level)
    return log


def _log_uncaught(_type: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    logging.getLogger("ccexecd").critical("ended by an exception that nothing expected", exc_info=error)


def _is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Compare a descriptor with `JOURNAL_STREAM`, which names device and inode; see systemd.exec(5).

    Only the comparison counts: a service's children inherit the variable with another stderr.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _LineHandler(logging.Handler):
    def __init__(self, fd: int, *, has_priorities: bool) -> None:
        super().__init__()
        self.fd = fd
        self.lost = 0
        self.redactor = Redactor()
        self._has_priorities = has_priorities

    def emit(self, record: logging.LogRecord) -> None:
        line = _control_free(_line(record, self.redactor)) + b"\n"
        if self._has_priorities:
            line = b"<%d>%b" % (_PRIORITIES.get(record.levelno, 5), line)
        try:
            written = os.write(self.fd, line)
        except OSError:
            written = 0
        self.lost += written != len(line)


def _line(record: logging.LogRecord, redactor: Redactor) -> bytes:
    fields = {key: _redacted(value, redactor) for key, value in _fields(record).items()}
    given = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    extra = {key + "_" if key in _OURS else key: _redacted(value, redactor) for key, value in given.items()}
    try:
        line = orjson.dumps(fields | extra, default=_rendered, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # a lone surrogate, an integer over 64 bits, a cycle
        line = orjson.dumps(_as_text(fields) | _as_text(extra))
    return line if len(line) <= MAX_RECORD else orjson.dumps(_shortened(_as_text(fields), len(line)))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
    }
    if record.exc_info and record.exc_info[1]:
        error = record.exc_info[1]
        fields["exception"] = type(error).__name__
        fields["traceback"] = "".join(traceback.format_exception(error)).rstrip()
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except _RENDERING_FAULTS as error:
        text = record.msg if isinstance(record.msg, str) else _rendered(record.msg)
        return f"{text} [cannot be formatted with {_rendered(record.args)}: {type(error).__name__}]"


def _redacted(value: object, redactor: Redactor) -> object:
    """A value without what looks like a secret: texts line by line, and the texts of a list."""
    if isinstance(value, str):
        return redactor.lines(value)
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return [redactor.lines(each) for each in value]
    return value


def _rendered(value: object) -> str:
    try:
        return repr(value)
    except _RENDERING_FAULTS:
        return f"<{type(value).__name__} that has no text>"


def _as_text(fields: Mapping[str, object]) -> dict[str, str]:
    """Turn keys and values into text that every encoder takes."""
    texts = {key: value if isinstance(value, str) else _rendered(value) for key, value in fields.items()}
    return {_encodable(key): _encodable(text) for key, text in texts.items()}


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _shortened(fields: Mapping[str, str], size: int) -> dict[str, object]:
    shortened: dict[str, object] = {key: text[:_MESSAGE_KEPT] for key, text in fields.items() if key != "stack"}
    if "traceback" in fields:
        shortened["traceback"] = fields["traceback"][-_TRACEBACK_KEPT:]  # its end says what happened
    return shortened | {"shortened_from": size}


def _control_free(line: bytes) -> bytes:
    return _CONTROL.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)
