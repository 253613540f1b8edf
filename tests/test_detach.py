"""Becoming a daemon, for real: forks, descriptors, signals, and what the starter is told."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccexecd import detach
from ccexecd.pidfile import PidFile, is_locked, running_pid, signal_daemon

PROGRAM = """
import json, os, resource, signal, sys, threading
from pathlib import Path
from ccexecd import detach, logs
from ccexecd.pidfile import PidFile

here = Path(sys.argv[1])

def facts():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    umask = os.umask(0); os.umask(umask)
    (here / "facts.new").write_text(json.dumps({
        "pid": os.getpid(), "sid": os.getsid(0), "cwd": os.getcwd(), "umask": umask,
        "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "fds": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{fd}")},
    }))
    os.rename(here / "facts.new", here / "facts")

def until_told():
    signal.sigwait({signal.SIGTERM})

def serve(ready):
    logs.configure("info")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if %(waits)r else None
    %(body)s
    return 0

def announce(pid, address):
    print(json.dumps([pid, address]), flush=True)

try:
    pidfile = PidFile(here / "pid").acquire()
    if %(foreground)r:
        code = detach.run_in_foreground(serve, pidfile=pidfile, keep=%(keep)r)
    else:
        detach.END_TIMEOUT = %(end_timeout)r
        code = detach.run_detached(serve, pidfile=pidfile, log_file=here / "log", announce=announce,
                                   keep=%(keep)r, timeout=%(timeout)r)
except detach.StartError as error:
    print(error, file=sys.stderr)
    code = 1
sys.exit(code)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A directory for one daemon, which is gone afterwards."""
    yield tmp_path
    signal_daemon(tmp_path / "pid", signal.SIGKILL)
    eventually(lambda: not is_locked(tmp_path / "pid"))


@pytest.fixture
def start(here: Path) -> Iterator[Start]:
    """Start a program that becomes a daemon with the given body."""
    started = []

    def start(body: str, *, prefix: tuple[str, ...] = (), popen: dict[str, Any] | None = None, **settings: Any):
        settings = {"foreground": False, "waits": True, "keep": (), "timeout": 20.0, "end_timeout": 5.0, **settings}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", PROGRAM % {"body": body, **settings}, str(here)],
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **(popen or {})},
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def eventually(is_so: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.01)


def facts_of(here: Path) -> dict[str, Any]:
    """Return what the daemon found out about itself."""
    eventually((here / "facts").exists)
    return json.loads((here / "facts").read_text())


def records_of(here: Path) -> list[dict[str, Any]]:
    """Return the records of the daemon's log."""
    return [json.loads(line) for line in (here / "log").read_text().splitlines()]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_starter_returns_when_the_daemon_is_ready(here: Path, start: Start):
    """The starter waits for ready(), not for the forks; then it names pid and address and exits 0."""
    os.mkfifo(here / "go")
    starter = start("facts(); (here / 'go').read_text(); ready('127.0.0.1:4711'); until_told()")
    facts = facts_of(here)
    assert running_pid(here / "pid") == facts["pid"]
    assert starter.poll() is None
    (here / "go").write_text("now")
    told, complaints = starter.communicate(timeout=20)
    assert (starter.returncode, json.loads(told), complaints) == (0, [facts["pid"], "127.0.0.1:4711"], "")
    assert is_alive(facts["pid"])


def test_daemon_is_detached(here: Path, start: Start):
    """The daemon is no child of the starter, in a session that it does not lead, in /, without a way to a terminal."""
    starter = start("facts(); ready(); until_told()")
    assert starter.wait(20) == 0
    facts = facts_of(here)
    assert facts["pid"] != starter.pid
    assert facts["sid"] not in {facts["pid"], os.getsid(0)}
    assert facts["cwd"] == "/"
    stat = Path(f"/proc/{facts['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    assert stat[1] != str(starter.pid)
    assert stat[4] == "0"  # tty_nr of proc(5)


def test_lock_is_released_at_the_end(here: Path, start: Start):
    """When the daemon returns, its pidfile is removed and the lock free."""
    assert start("ready(); until_told()").wait(20) == 0
    assert signal_daemon(here / "pid", signal.SIGTERM)
    eventually(lambda: not (here / "pid").exists())
    PidFile(here / "pid").acquire().release()


def test_daemon_inherits_no_descriptor(here: Path, start: Start):
    """Besides the null device, its log and its lock, the daemon has what it was told to keep and nothing else."""
    reader, writer = os.pipe()
    other = os.open("/etc/passwd", os.O_RDONLY)
    try:
        popen = {"pass_fds": (reader, other)}
        assert start("ready(); facts(); until_told()", keep=(reader,), popen=popen).wait(20) == 0
    finally:
        for fd in (reader, writer, other):
            os.close(fd)
    fds = facts_of(here)["fds"]
    assert (fds.pop("0"), fds.pop("1"), fds.pop("2")) == ("/dev/null", "/dev/null", str(here / "log"))
    assert fds.pop(str(reader)).startswith("pipe:")
    assert list(fds.values()) == [str(here / "pid")]


def test_daemon_creates_private_files(here: Path, start: Start):
    """The daemon's umask is 0077 and its log has mode 0600, whatever the starter's umask is."""
    assert start("facts(); ready(); until_told()", prefix=("sh", "-c", 'umask 000; exec "$@"', "sh")).wait(20) == 0
    assert facts_of(here)["umask"] == 0o077
    assert (here / "log").stat().st_mode & 0o777 == 0o600


def test_daemon_hears_every_signal(here: Path, start: Start):
    """Signals that the starter ignored or blocked, as nohup and background jobs do, are neither in the daemon."""
    starter = (
        "import os, signal, sys\n"
        "for name in ('HUP', 'INT', 'QUIT', 'TSTP', 'CHLD', 'USR1'):\n"
        "    signal.signal(signal.Signals['SIG' + name], signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    prefix = (sys.executable, "-c", starter)
    assert start("facts(); ready(); signal.pause()", prefix=prefix, waits=False).wait(20) == 0
    facts = facts_of(here)
    ignored = {number for number in signal.valid_signals() if facts["ignored"] >> (number - 1) & 1}
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own; libc's internal ones, 32 and 33, do not count
    assert facts["blocked"] == 0


def test_core_dumps_stay_allowed(here: Path, start: Start):
    """Commands of the daemon keep the limits of the starter: python-daemon would forbid core dumps for good."""
    assert start("facts(); ready(); until_told()", prefix=("sh", "-c", 'ulimit -S -c 0; exec "$@"', "sh")).wait(20) == 0
    assert facts_of(here)["core"] == [0, resource.getrlimit(resource.RLIMIT_CORE)[1]]


def test_socket_as_stdin_does_not_prevent_it(here: Path, start: Start):
    """A starter whose stdin is a socket, as under Node or inetd, gets a daemon all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        starter = start("facts(); ready(); until_told()", popen={"stdin": theirs})
        assert starter.wait(20) == 0
    assert facts_of(here)["pid"] != starter.pid


REFUSALS = {
    "StartError": ("raise detach.StartError('port 1 is taken: choose another')", "port 1 is taken: choose another"),
    "OSError": ("open('/missing/file')", "cannot use /missing/file: No such file or directory"),
    "OSError without a file": ("raise OSError('address in use')", "address in use"),
    "group": (
        "raise ExceptionGroup('', [ExceptionGroup('', [detach.StartError('one')]), OSError('two'), OSError('two')])",
        "one; two",
    ),
    "multi-line": ("raise detach.StartError('first\\nsecond')", "first\nsecond"),
    "long": ("raise detach.StartError('\\u20ac' * 5000)", "\u20ac" * 1000),
}


@pytest.mark.parametrize(("body", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_reason_reaches_the_starter(here: Path, start: Start, body: str, reason: str):
    """A daemon that cannot start says why: on the starter's stderr, with exit code 1, and in the log; nothing stays."""
    starter = start(body)
    told, complaints = starter.communicate(timeout=20)
    assert (starter.returncode, told, complaints) == (1, "", reason + "\n")
    assert records_of(here)[-1]["level"] == "critical"
    assert not (here / "pid").exists()


def test_fault_of_ours_is_told_apart(here: Path, start: Start):
    """An unexpected exception is called an internal error; its traceback is in the log, as one record."""
    starter = start("{}['key']")
    assert starter.wait(20) == 1
    assert starter.stderr.read() == f"internal error, see {here}/log: KeyError: 'key'\n"
    (record,) = records_of(here)
    assert record["exception"] == "KeyError"
    assert "in serve" in record["traceback"]


def test_mixed_group_is_a_fault_of_ours(here: Path, start: Start):
    """A group with anything unexpected in it is not passed off as a mere reason."""
    starter = start("raise ExceptionGroup('mixed', [detach.StartError('one'), ValueError('two')])")
    assert starter.wait(20) == 1
    assert starter.stderr.read().startswith("internal error, see ")
    assert "ValueError: two" in (here / "log").read_text()


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("os._exit(7)", "ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("return 0", "ended with exit code 0"),
    ],
)
def test_silent_death_is_explained(here: Path, start: Start, body: str, ending: str):
    """A daemon that dies without a word is reported with its exit status and its own last lines in the log."""
    (here / "log").write_text("yesterday\n")
    starter = start(f"os.write(2, b'one\\ntwo\\n'); {body}")
    told, complaints = starter.communicate(timeout=20)
    assert (starter.returncode, told) == (1, "")
    assert complaints == f"the daemon {ending} before it was ready; {here}/log ends with:\n  one\n  two\n"


def test_silent_death_without_a_log(here: Path, start: Start):
    """When it did not log either, that is said as well."""
    starter = start("os._exit(3)")
    assert starter.wait(20) == 1
    assert starter.stderr.read() == (
        f"the daemon ended with exit code 3 before it was ready; {here}/log says nothing about it\n"
    )


def test_start_that_takes_too_long_is_ended(here: Path, start: Start):
    """A daemon that does not become ready in time is ended, and the starter says so."""
    starter = start("facts(); until_told()", timeout=1.0)
    assert starter.wait(20) == 1
    assert starter.stderr.read().startswith("the daemon was not ready after 1 s and was ended; ")
    assert not is_alive(facts_of(here)["pid"])
    assert not is_locked(here / "pid")


def test_start_that_resists_is_killed(here: Path, start: Start):
    """A daemon that hangs and does not heed TERM is gone as well when the starter returns."""
    starter = start("facts(); signal.pause()", timeout=1.0, end_timeout=0.2)
    assert starter.wait(20) == 1
    assert not is_alive(facts_of(here)["pid"])


def test_interrupted_start_leaves_nothing(here: Path, start: Start):
    """Ctrl-C while waiting ends the daemon that was on its way."""
    starter = start("facts(); until_told()")
    facts = facts_of(here)
    starter.send_signal(signal.SIGINT)
    assert starter.wait(20) == 1
    assert starter.stderr.read() == "interrupted; the daemon was ended\n"
    assert not is_alive(facts["pid"])


def hooked(here: Path, hook: str) -> dict[str, str]:
    """An environment in which every Python program runs this code first."""
    (here / "sitecustomize.py").write_text(hook)
    return {**os.environ, "PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}"}


def test_start_interrupted_before_the_last_fork(here: Path, start: Start):
    """Ctrl-C before the daemon has its final process, whose pid nobody knows yet, leaves nothing either."""
    hook = (
        "import os, time\n"
        "real_setsid = os.setsid\n"
        "def setsid():\n"
        f"    os.chdir({str(here)!r}); open('between', 'w').close(); open('go').read(); os.chdir('/'); real_setsid()\n"
        "os.setsid = setsid\n"
    )
    os.mkfifo(here / "go")
    starter = start("facts(); until_told()", popen={"env": hooked(here, hook)})
    eventually((here / "between").exists)
    starter.send_signal(signal.SIGINT)
    (here / "go").write_text("now")
    assert starter.wait(20) == 1
    assert not is_locked(here / "pid")


def test_start_interrupted_as_it_forks(here: Path, start: Start):
    """Ctrl-C before anybody waits for the daemon leaves nothing either."""
    hook = (
        "import os, signal\n"
        "real_fork = os.fork\n"
        "def fork():\n"
        "    os.fork = real_fork\n"
        "    pid = real_fork()\n"
        "    if pid:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return pid\n"
        "os.fork = fork\n"
    )
    starter = start("until_told()", popen={"env": hooked(here, hook)})
    assert starter.wait(20) == 1
    assert starter.stderr.read() == "interrupted; the daemon was ended\n"
    assert not is_locked(here / "pid")


def test_start_interrupted_in_the_moment_of_news(here: Path, start: Start):
    """Ctrl-C right after the daemon's pid has been read, and before anything was made of it, leaves nothing either."""
    hook = (
        "import os, signal, sys\n"
        "real_read = os.read\n"
        "def read(*args):\n"
        "    received = real_read(*args)\n"
        "    if b'pid' in received:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return received\n"
        "os.read = read\n"
    )
    starter = start("until_told()", popen={"env": hooked(here, hook)})
    assert starter.wait(20) == 1
    assert starter.stderr.read() == "interrupted; the daemon was ended\n"
    assert not is_locked(here / "pid")


def test_daemon_survives_an_impatient_starter(here: Path, start: Start):
    """When the starter is killed while it waits, the daemon comes up all the same."""
    os.mkfifo(here / "go")
    starter = start("facts(); (here / 'go').read_text(); ready(); (here / 'up').touch(); until_told()")
    facts = facts_of(here)
    starter.kill()
    starter.wait(20)
    (here / "go").write_text("now")
    eventually((here / "up").exists)
    assert is_alive(facts["pid"])


def test_failure_after_ready(here: Path, start: Start):
    """A daemon that fails later logs it; its starter was told the truth of its time."""
    starter = start("ready(); raise OSError('disk gone')")
    assert starter.wait(20) == 0
    eventually((here / "log").read_bytes)
    assert records_of(here)[0]["message"] == "disk gone"
    eventually(lambda: not (here / "pid").exists())


def test_log_that_cannot_be_opened(here: Path, start: Start):
    """Without a log nothing is started."""
    (here / "log").mkdir()
    starter = start("ready(); until_told()")
    assert starter.wait(20) == 1
    assert "IsADirectoryError" in starter.stderr.read()
    assert not is_locked(here / "pid")


def test_nothing_is_shared_at_the_forks(here: Path, start: Start):
    """At every fork there is one thread and no Trio: neither survives a fork."""
    guard = (
        "import os, sys, threading\n"
        "def check():\n"
        "    assert threading.active_count() == 1, threading.enumerate()\n"
        "    assert 'trio' not in sys.modules\n"
        "    os.write(2, b'fork\\n')\n"
        "os.register_at_fork(before=check)\n"
    )
    (here / "sitecustomize.py").write_text(guard)
    path = f"{here}:{os.environ.get('PYTHONPATH', '')}"
    starter = start("ready(); until_told()", popen={"env": {**os.environ, "PYTHONPATH": path}})
    assert starter.wait(20) == 0
    assert starter.stderr.read() == "fork\n" * 3


def test_foreground_stays(here: Path, start: Start):
    """In the foreground the process itself is the daemon: same pid, its own stderr, the lock, and the same hygiene."""
    other = os.open("/etc/passwd", os.O_RDONLY)
    try:
        daemon = start("facts(); os.write(2, b'here'); until_told()", foreground=True, popen={"pass_fds": (other,)})
    finally:
        os.close(other)
    facts = facts_of(here)
    assert facts["pid"] == daemon.pid == running_pid(here / "pid")
    assert (facts["cwd"], facts["umask"], facts["sid"]) == ("/", 0o077, os.getsid(0))
    assert sorted(facts["fds"]) == ["0", "1", "2", "3"]
    assert facts["fds"]["0"] == "/dev/null"
    assert facts["fds"]["3"] == str(here / "pid")
    daemon.terminate()
    assert daemon.wait(20) == 0
    assert daemon.stderr.read() == "here"
    assert not (here / "pid").exists()


def test_foreground_failure(here: Path, start: Start):
    """In the foreground a reason is raised to the caller, out of whatever group it came in."""
    daemon = start("raise ExceptionGroup('', [OSError('port taken')])", foreground=True)
    assert daemon.wait(20) == 1
    assert daemon.stderr.read() == "port taken\n"
    assert not is_locked(here / "pid")


def test_reasons():
    """An error is worded with its object and its reason, and never empty."""
    assert detach.reason_of(FileNotFoundError(2, "No such file", "/x")) == "cannot use /x: No such file"
    assert detach.reason_of(OSError("text")) == "text"
    assert detach.reason_of(ValueError()) == "ValueError"
