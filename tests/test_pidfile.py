"""The pidfile: its lock is the truth, its number a hint."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccexecd.pidfile import AlreadyRunningError, PidFile, is_locked, running_pid, signal_daemon

HOLD = """
import sys
from pathlib import Path
from ccexecd.pidfile import PidFile
pidfile = PidFile(Path(sys.argv[1])).acquire()
if sys.argv[2] == "write":
    pidfile.write()
print("held", flush=True)
sys.stdin.read()
pidfile.release()
"""


class Holder:
    """Another process that holds a pidfile until its stdin ends."""

    def __init__(self, path: Path, mode: str = "write") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def release(self) -> None:
        self.process.communicate(timeout=10)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the pidfile is."""
    return tmp_path / "ccexecd.pid"


def test_a_full_disk_is_told_with_the_file(path, monkeypatch):
    """Else nobody knows which disk it is."""

    def refuse(fd: int, text: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pidfile = PidFile(path).acquire()
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        pidfile.write()
    pidfile.release()


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    """Another process that holds the pidfile and has written its pid."""
    other = Holder(path)
    yield other
    other.kill()


def test_pid_is_written_and_removed(path: Path):
    """While it is held the file names the holder; afterwards it is gone."""
    with PidFile(path).acquire():
        assert path.read_text() == f"{os.getpid()}\n"
        assert running_pid(path) == os.getpid()
    assert not path.exists()
    assert running_pid(path) is None


def test_file_can_be_read_by_everybody(path: Path):
    """The file has mode 0644 although the daemon's umask is 0077."""
    previous = os.umask(0o077)
    try:
        with PidFile(path).acquire():
            assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(previous)


def test_second_daemon_learns_who_runs(path: Path, holder: Holder):
    """A second claim fails, naming the pid and the file."""
    with pytest.raises(AlreadyRunningError, match=rf"already running \(pid {holder.pid}\)") as caught:
        PidFile(path).acquire()
    assert (caught.value.pid, caught.value.path) == (holder.pid, path)
    assert running_pid(path) == holder.pid


def test_holder_without_pid_is_starting(path: Path):
    """A holder that does not write its pid within the wait is reported as starting."""
    other = Holder(path, "starting")
    with pytest.raises(AlreadyRunningError, match="is starting") as caught:
        PidFile(path).acquire(pid_wait=0.05)
    assert caught.value.pid is None
    assert is_locked(path)
    assert running_pid(path) is None
    other.release()


def test_pid_of_a_starting_holder_is_awaited(path: Path):
    """A holder that writes its pid a moment later is reported with it."""
    first = PidFile(path).acquire()
    threading.Timer(0.1, first.write).start()
    with pytest.raises(AlreadyRunningError) as caught:
        PidFile(path).acquire(pid_wait=10)
    assert caught.value.pid == os.getpid()
    first.release()


def test_start_that_fails_leaves_room_for_the_next(path: Path):
    """A claim that waits for a starting holder gets the lock when that one gives up."""
    first = PidFile(path).acquire()
    threading.Timer(0.1, first.release).start()
    with PidFile(path).acquire(pid_wait=10):
        assert running_pid(path) == os.getpid()


def test_killed_holder_leaves_nothing_in_the_way(path: Path, holder: Holder):
    """After SIGKILL the file is still there and means nothing."""
    holder.kill()
    assert path.exists()
    assert running_pid(path) is None
    with PidFile(path).acquire():
        assert running_pid(path) == os.getpid()


def test_foreign_live_pid_is_not_the_daemon(path: Path):
    """A stale file whose number now belongs to another live process is not believed, and that process not signalled."""
    path.write_text(f"{os.getppid()}\n")
    assert running_pid(path) is None
    assert signal_daemon(path, signal.SIGKILL) is False
    with PidFile(path).acquire():
        assert running_pid(path) == os.getpid()


def test_stale_number_is_gone_as_soon_as_it_is_locked(path: Path):
    """A starting daemon is never shown with the number of its predecessor."""
    path.write_text(f"{os.getppid()}\n")
    claim = PidFile(path).acquire()
    assert path.read_text() == ""
    claim.release()


@pytest.mark.parametrize("content", ["", "soon\n", "-1\n", "12 13\n", "\x00" * 100])
def test_garbage_in_the_file_is_no_pid(path: Path, content: str):
    """Whatever a held file contains, only a number is taken for a pid."""
    claim = PidFile(path).acquire()
    path.write_text(content)
    assert is_locked(path)
    assert running_pid(path) is None
    claim.release()


def test_no_file_means_not_running(path: Path):
    """Without a pidfile nothing runs, and nothing is signalled."""
    assert not is_locked(path)
    assert running_pid(path) is None
    assert signal_daemon(path, signal.SIGTERM) is False
    path.touch()
    assert not is_locked(path / "below a file")


def test_signal_reaches_the_holder(path: Path, holder: Holder):
    """A signal is sent to the process that holds the lock."""
    assert signal_daemon(path, signal.SIGTERM) is True
    assert holder.process.wait(10) == -signal.SIGTERM


def test_signal_to_a_number_that_does_not_exist(path: Path):
    """A held file that names no process, which only tampering makes, is reported as not running."""
    claim = PidFile(path).acquire()
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    path.write_text(f"{child}\n")
    assert signal_daemon(path, signal.SIGTERM) is False
    claim.release()


def test_symlink_is_not_followed(path: Path, tmp_path: Path):
    """A symbolic link in the pidfile's place cannot make root truncate another file."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        PidFile(path).acquire()
    with pytest.raises(OSError, match="symbolic"):
        running_pid(path)
    assert victim.read_text() == "precious"


def test_fifo_is_refused(path: Path):
    """Anything but a regular file is refused at once, without waiting for a writer."""
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        PidFile(path).acquire()


def test_missing_directory_is_an_os_error(path: Path):
    """The reason for which the file cannot be made reaches the caller."""
    with pytest.raises(FileNotFoundError):
        PidFile(path.parent / "missing" / "x.pid").acquire()


def test_forked_child_does_not_release(path: Path):
    """A forked child that runs the exit handlers leaves file and lock to the daemon."""
    with PidFile(path).acquire() as pidfile:
        child = os.fork()
        if child == 0:
            pidfile.release()
            os._exit(0)
        os.waitpid(child, 0)
        assert running_pid(path) == os.getpid()


def test_lock_survives_the_process_that_took_it(path: Path):
    """The lock taken before a fork is held by the child after the parent closed its copy; the child's pid counts."""
    report, wait = os.pipe(), os.pipe()
    pidfile = PidFile(path).acquire()
    child = os.fork()
    if child == 0:
        os.close(wait[1])
        pidfile.write()
        os.write(report[1], b"written")
        os.read(wait[0], 1)
        os._exit(0)
    assert os.read(report[0], 10) == b"written"
    pidfile.close()
    assert running_pid(path) == child
    for fd in (*report, *wait):
        os.close(fd)
    os.waitpid(child, 0)
    assert running_pid(path) is None


def test_executed_program_does_not_inherit_the_lock(path: Path):
    """A program that the daemon starts cannot keep the lock alive: the descriptor is closed on exec."""
    pidfile = PidFile(path).acquire()
    command = ["/bin/sh", "-c", "echo running; read never"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        assert child.stdout.readline() == b"running\n"  # past exec: Popen returns while that is closing descriptors
        pidfile.close()
        assert not is_locked(path)


def test_replaced_file_is_left_alone(path: Path):
    """A file that somebody put in the pidfile's place is not removed by a release."""
    with PidFile(path).acquire():
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"


def test_removed_file_does_not_end_a_release(path: Path):
    """Releasing works although somebody removed the file."""
    with PidFile(path).acquire():
        path.unlink()
    assert not path.exists()


def test_lock_on_a_removed_file_does_not_count(path: Path, monkeypatch):
    """A claim whose file was removed between open and lock is made again on the new file."""
    real_flock = fcntl.flock
    removed = []

    def flock_after_removal(fd: int, operation: int) -> None:
        if not removed:
            removed.append(path)
            path.unlink()  # what the previous holder's release does
        real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with PidFile(path).acquire():
        assert running_pid(path) == os.getpid()
    assert removed


def test_looking_at_the_lock_never_fails_a_start(path: Path):
    """However often others ask whether a daemon runs, a start on a free lock succeeds."""
    path.touch()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_locked(path)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(100):
            pidfile = PidFile(path).acquire(pid_wait=10)
            pidfile.release()
            path.touch()
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def test_only_one_of_many_gets_the_lock(path: Path):
    """Of ten processes that claim it at the same moment exactly one succeeds and the others learn its pid."""
    code = (
        "import sys, time; from pathlib import Path; from ccexecd.pidfile import *\n"
        "sys.stdin.readline()\n"
        "try: PidFile(Path(sys.argv[1])).acquire(10).write(); print('won', flush=True); sys.stdin.read()\n"
        "except AlreadyRunningError as error: print(error.pid, flush=True)\n"
    )
    claims = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(10)
    ]
    for claim in claims:
        claim.stdin.write("go\n")
        claim.stdin.flush()
    answers = {claim.pid: claim.stdout.readline().strip() for claim in claims}
    winners = [pid for pid, answer in answers.items() if answer == "won"]
    for claim in claims:
        claim.communicate(timeout=10)
    assert len(winners) == 1
    assert [answer for answer in answers.values() if answer != "won"] == [str(winners[0])] * 9


def test_refusal_is_prompt(path: Path, holder: Holder):
    """A claim on a lock whose holder is known is refused without waiting."""
    started = time.monotonic()
    with pytest.raises(AlreadyRunningError):
        PidFile(path).acquire(pid_wait=30)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"precious\n", b"4711\nmore\n", b"1" * 1000])
def test_a_file_that_is_no_pidfile_stays(path: Path, content: bytes):
    """A slip in `pidfile` must not empty somebody's file."""
    path.write_bytes(content)
    with pytest.raises(OSError, match="not a pidfile, so it stays"):
        PidFile(path).acquire()
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"4711\n", b"4711", b"\0\0\0\0\0"])
def test_what_an_ended_daemon_left_is_taken(path: Path, content: bytes):
    """A pid without its line feed, nothing at all, or NULs after a power cut: the next start just works."""
    path.write_bytes(content)
    pidfile = PidFile(path).acquire()
    assert path.read_bytes() == b""
    pidfile.release()
