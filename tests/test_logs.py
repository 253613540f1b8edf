"""The log: a record is a line, a line is a record, and neither can end the daemon."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ccexecd import logs
from ccexecd.core.redaction import Redactor

logger = logging.getLogger("ccexecd.test")

HOSTILE = {
    "line feed": 'x\n{"level":"forged"}',
    "carriage return": "x\rforged",
    "escape": "\x1b[2K\x1b[1Aforged",
    "DEL and C1": "x\x7f\x85\x9bforged",
    "Unicode separators": "x\u2028forged\u2029forged",
    "NUL": "x\0forged",
    "lone surrogate": "x\ud800forged",
}


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Give the test runner its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    excepthook = sys.excepthook
    levels = {name: logging.getLogger(name).level for name in logs.SILENCED}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = excepthook
    for name, previous in levels.items():
        logging.getLogger(name).setLevel(previous)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the log goes."""
    return tmp_path / "ccexecd.log"


@pytest.fixture
def log(file: Path) -> Iterator[logs.Log]:
    """A log at level info in a file."""
    fd = logs.open_file(file)
    yield logs.configure("info", to=fd, path=file, environ={})
    os.close(fd)


@pytest.fixture
def records(log: logs.Log, file: Path) -> Callable[[], list[dict]]:
    """Everything that was logged, parsed."""
    return lambda: [json.loads(line) for line in file.read_bytes().splitlines()]


def test_record_is_one_json_line(records):
    """A record has time, level, logger and message, and what came as extra."""
    before = datetime.now().astimezone()
    logger.info("started %s", "x", extra={"execution_id": "e1", "pid": 7, "argv": ["a", "b"]})
    (record,) = records()
    assert abs(datetime.fromisoformat(record.pop("ts")) - before) < timedelta(seconds=10)
    assert record == {
        "level": "info",
        "logger": "ccexecd.test",
        "message": "started x",
        "execution_id": "e1",
        "pid": 7,
        "argv": ["a", "b"],
    }


def test_time_is_utc(records):
    """Times do not depend on the time zone of the machine."""
    logger.warning("x")
    assert records()[0]["ts"].endswith("+00:00")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nobody_can_forge_a_line(records, file: Path, text: str):
    """Text from a client never makes a second line, for whatever reader, nor moves a terminal's cursor."""
    logger.info("%s", text, extra={"label": text, "nested": {"k": [text]}})
    logger.info("next")
    content = file.read_bytes().decode()
    assert len(content.splitlines()) == 2
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in content.replace("\n", ""))
    assert [record["level"] for record in records()] == ["info", "info"]
    if "\ud800" not in text:
        assert records()[0]["message"] == records()[0]["label"] == text


class Nameless:
    """A value that fails to describe itself."""

    def __repr__(self) -> str:
        raise RuntimeError


class Named:
    """A value that is no JSON."""

    def __repr__(self) -> str:
        return "Named()"


def cycle() -> list:
    """Return a list that contains itself."""
    values: list = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (Named(), "Named()"),
        (Path("/x"), "PosixPath('/x')"),
        (b"\xff", r"b'\xff'"),
        ({1: "a"}, {"1": "a"}),
        ({Named()}, "{Named()}"),
        (1 << 70, str(1 << 70)),
        (cycle(), "[[...]]"),
        (Nameless(), "<Nameless that has no text>"),
        (float("nan"), None),
    ],
    ids=["object", "path", "bytes", "integer keys", "set", "big integer", "cycle", "nameless", "nan"],
)
def test_any_value_can_be_logged(records, value: object, logged: object):
    """What JSON does not know is logged as its text; the record is never lost."""
    logger.info("x", extra={"value": value})
    assert records()[0]["value"] == logged
    assert records()[0]["message"] == "x"


def test_extra_cannot_replace_our_fields(records):
    """A field that is called like one of ours gets another name."""
    logger.info("x", extra={"level": "forged", "ts": 1, "logger": "other"})
    record = records()[0]
    assert (record["level"], record["level_"]) == ("info", "forged")
    assert (record["logger"], record["logger_"], record["ts_"]) == ("ccexecd.test", "other", 1)


def without_the_test_runner() -> None:
    """Take away the handlers that pytest adds for the time of a test: they raise where ours does not."""
    root = logging.getLogger()
    root.handlers[:] = root.handlers[:1]


@pytest.mark.parametrize("arguments", [("a", "b"), (Nameless(),)], ids=["too many", "nameless"])
def test_message_that_cannot_be_formatted(records, arguments: tuple[object, ...]):
    """A mistake in a log call is logged with what there is, and raises nothing."""
    without_the_test_runner()
    logger.error("value %s", *arguments)
    assert records()[0]["message"].startswith("value %s [cannot be formatted with ")


def test_message_object_without_text(records):
    """Even a message that is no text and has none is logged."""
    without_the_test_runner()
    logger.error(Nameless())
    assert "<Nameless that has no text>" in records()[0]["message"]


def raised(error: Exception) -> Exception:
    """Return an exception with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_exception_is_a_field(records):
    """An exception is logged with its type and its whole traceback in one record."""
    logger.error("execution failed", exc_info=raised(ExceptionGroup("two", [ValueError("bad\nvalue"), KeyError("k")])))
    (record,) = records()
    assert record["exception"] == "ExceptionGroup"
    assert "in raised" in record["traceback"]
    assert "ValueError: bad" in record["traceback"]
    logger.info("no exception", exc_info=(None, None, None))
    assert "traceback" not in records()[1]


def test_stack_is_a_field(records):
    """A requested stack is part of the record."""
    logger.info("x", stack_info=True)
    assert "test_stack_is_a_field" in records()[0]["stack"]


def test_oversized_record_is_shortened(records, file: Path):
    """A record stays below the length at which the journal cuts lines, and says how long it was."""
    error = raised(ValueError("e" * 100_000 + "end"))
    logger.error("m%s", "\x7f" * 100_000, extra={"big": ["b"] * 50_000}, stack_info=True, exc_info=error)
    (record,) = records()
    assert file.stat().st_size <= logs.MAX_RECORD
    assert record["message"].startswith("m\x7f")
    assert record["traceback"].endswith("end")
    assert record["shortened_from"] > 200_000


def test_what_looks_like_a_secret_is_taken_out(log: logs.Log, records):
    """Of the message, its fields and a traceback; and what the configuration names, once it is known."""
    logger = logging.getLogger("x")
    logger.warning("run: %s", "curl --token s3cr3t", extra={"peer": "Bearer abcdef123", "argv": ["--api-key=s3cr3t"]})
    logger.error("failed", exc_info=raised(ValueError("password=s3cr3t")))
    log.redact(Redactor(["nightjar-[0-9]+"]))
    logger.warning("about nightjar-77")
    first, second, third = records()
    assert first["message"] == "run: curl --token [redacted]"
    assert (first["peer"], first["argv"]) == ("Bearer [redacted]", ["--api-key=[redacted]"])
    assert "s3cr3t" not in second["traceback"]
    assert third["message"] == "about [redacted]"


def test_level_can_be_changed(log: logs.Log, records):
    """The level of the start holds until another one is set."""
    logger.debug("hidden")
    log.set_level("debug")
    logger.debug("shown")
    log.set_level("error")
    logger.warning("hidden")
    assert [record["message"] for record in records()] == ["shown"]


def test_frame_loggers_are_silent(log: logs.Log, records):
    """Libraries that would log every frame do not, even at level debug; their warnings are kept."""
    log.set_level("debug")
    logging.getLogger("trio-websocket").debug("received event")
    logging.getLogger("h11").info("x")
    logging.getLogger("trio-websocket").warning("unknown event")
    assert [record["message"] for record in records()] == ["unknown event"]


def test_python_warnings_are_records(log: logs.Log, records):
    """A warning of the interpreter is a record as well, not a stray line."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    logging.captureWarnings(capture=False)
    assert "DeprecationWarning: old" in records()[0]["message"]


def test_file_is_private(log: logs.Log, file: Path):
    """The log has mode 0600, whatever the umask is."""
    assert file.stat().st_mode & 0o777 == 0o600
    previous = os.umask(0)
    try:
        file.unlink()
        log.reopen()
    finally:
        os.umask(previous)
    assert file.stat().st_mode & 0o777 == 0o600


def test_reopen_continues_at_the_same_path(log: logs.Log, file: Path, records):
    """After rotation and reopen, new records are in the new file and none is lost."""
    logger.info("one")
    rotated = file.rename(file.with_suffix(".1"))
    logger.info("two")
    log.reopen()
    logger.info("three")
    assert [json.loads(line)["message"] for line in rotated.read_bytes().splitlines()] == ["one", "two"]
    assert [record["message"] for record in records()] == ["three"]


def test_reopen_leaks_nothing(log: logs.Log):
    """However often it is reopened, the number of descriptors stays the same."""
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        log.reopen()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_failed_reopen_keeps_the_old_file(log: logs.Log, file: Path):
    """When the new file cannot be opened, the caller learns it and the old one stays in use."""
    moved = file.parent.rename(file.parent.with_name("moved")) / file.name
    with pytest.raises(FileNotFoundError):
        log.reopen()
    logger.info("still here")
    assert b"still here" in moved.read_bytes()


def test_a_fifo_in_its_place_keeps_nobody_waiting(log: logs.Log, file: Path):
    """Nobody reads it: that is an error, and the old file stays in use."""
    moved = file.rename(file.with_name("moved.log"))
    os.mkfifo(file)
    with pytest.raises(OSError, match="No such device"):
        log.reopen()
    logger.info("still here")
    assert b"still here" in moved.read_bytes()


def test_stderr_is_not_reopened(tmp_path: Path):
    """Without a file there is nothing to reopen."""
    fd = logs.open_file(tmp_path / "x")
    log = logs.configure("info", to=fd)
    (tmp_path / "x").unlink()
    log.reopen()
    assert log.path is None
    assert not (tmp_path / "x").exists()
    os.close(fd)


def test_configuring_twice_does_not_log_twice(log: logs.Log, file: Path, records):
    """The last configuration is the only one."""
    logs.configure("info", to=logging.getLogger().handlers[0].fd, path=file)
    logger.info("x")
    assert len(records()) == 1


def test_full_disk_ends_nothing():
    """A record that cannot be written is counted; the caller goes on."""
    fd = os.open("/dev/full", os.O_WRONLY)
    log = logs.configure("info", to=fd)
    logger.error("x")
    os.close(fd)
    logger.error("x")
    assert log.lost == 2


def test_reader_gone_ends_nothing():
    """The same holds for a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    log = logs.configure("info", to=writer)
    logger.error("x")
    os.close(writer)
    assert log.lost == 1


def test_journal_gets_priorities(file: Path):
    """When the descriptor is the journal, each line starts with its syslog priority."""
    fd = logs.open_file(file)
    status = os.fstat(fd)
    log = logs.configure("debug", to=fd, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)("x\ny")
    logger.log(25, "x")
    os.close(fd)
    lines = file.read_text().splitlines()
    assert [line[:4] for line in lines] == ["<7>{", "<6>{", "<4>{", "<3>{", "<2>{", "<5>{"]
    assert log.lost == 0


@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "1:2"}])
def test_others_get_none(file: Path, environ: dict[str, str]):
    """A variable that was inherited from a service with another stderr adds no prefix."""
    fd = logs.open_file(file)
    logs.configure("info", to=fd, environ=environ)
    logger.info("x")
    os.close(fd)
    assert file.read_bytes().startswith(b"{")


def test_descriptor_that_is_closed():
    """Configuring with a descriptor that is not open raises nothing; the records are lost."""
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    log = logs.configure("info", to=writer)
    logger.info("x")
    assert log.lost == 1


def test_default_is_stderr():
    """Without a descriptor the log is on stderr."""
    code = "import logging; from ccexecd import logs; logs.configure('info'); logging.info('hello')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stderr)["message"] == "hello"
    assert told.stdout == ""


def test_uncaught_exception_is_a_record():
    """What ends the process unexpectedly is its last record, in one line like every other."""
    code = "from ccexecd import logs; logs.configure('info'); {}['key']"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (record,) = map(json.loads, told.stderr.splitlines())
    assert (told.returncode, record["level"], record["exception"]) == (1, "critical", "KeyError")
    assert "Traceback" in record["traceback"]


def test_records_of_several_processes_do_not_mix(file: Path):
    """Processes that share the file append whole lines."""
    code = (
        "import logging, sys; from pathlib import Path; from ccexecd import logs\n"
        "logs.configure('info', to=logs.open_file(Path(sys.argv[1])))\n"
        "for n in range(200): logging.info('x' * 1000, extra={'n': n})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file)]) for _ in range(3)]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    assert len([json.loads(line) for line in file.read_bytes().splitlines()]) == 600
