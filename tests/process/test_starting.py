"""Starting one program: where it is looked for, where it begins, and what is said of a refusal."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ccexecd.process.starting import StartRefusedError, start

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    """As the keeper is."""
    monkeypatch.chdir("/")


def output_of(argv, env=None, cwd=None) -> str:
    """Start a program, and read all that it writes."""
    ours, theirs = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = start(argv, ENV if env is None else env, cwd, (null, theirs, theirs))
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
        os.close(null)
    with os.fdopen(ours, "rb") as output:
        text = output.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


def script(path: Path, text: str = "#!/bin/sh\necho $0\n", mode: int = 0o755) -> Path:
    """An executable file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_program_is_looked_for_in_its_own_path(tmp_path):
    """The first that may be executed; a directory, a plain file and a folder that is not there are passed over."""
    (tmp_path / "a" / "mine").mkdir(parents=True)
    script(tmp_path / "b" / "mine", mode=0o644)
    wanted = script(tmp_path / "c" / "mine")
    script(tmp_path / "d" / "mine")
    path = ":".join(str(tmp_path / name) for name in ("nowhere", "a", "b", "c", "d"))
    assert output_of(["mine"], {"PATH": path}) == f"{wanted}\n"


def test_without_a_path_the_systems_own_is_taken():
    """As execvp(3) does."""
    assert output_of(["echo", "fine"], {}) == "fine\n"


def test_a_relative_name_and_path_belong_to_the_directory_of_the_program(tmp_path):
    """Not to ours."""
    script(tmp_path / "bin" / "mine", "#!/bin/sh\npwd\n")
    assert output_of(["./bin/mine"], cwd=str(tmp_path)) == f"{tmp_path}\n"
    assert output_of(["mine"], {"PATH": "bin"}, str(tmp_path)) == f"{tmp_path}\n"
    script(tmp_path / "mine", "#!/bin/sh\npwd\n")
    assert output_of(["mine"], {"PATH": ""}, str(tmp_path)) == f"{tmp_path}\n"
    assert Path.cwd() == Path("/")


def test_the_environment_is_the_one_given():
    """No more, and no less."""
    assert output_of(["/usr/bin/env"], {"A": "1", "B": "a=b\nc"}) == "A=1\nB=a=b\nc\n"


def test_it_leads_a_session_and_heeds_the_signals_that_we_ignore():
    """SIGPIPE and SIGXFSZ are ignored by Python itself."""
    look = "import os, sys; print(os.getsid(0) == os.getpid()); print(open('/proc/self/status').read())"
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    text = output_of(["cat", "/proc/self/status"])
    ignored = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("SigIgn"))
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    assert output_of(["python3", "-c", look]).startswith("True\n")


def test_a_terminal_that_it_opens_controls_its_session():
    """All three descriptors are it, and so is /dev/tty."""
    ours, theirs = os.openpty()
    script = "tty; tty <&1; tty <&2; echo named >/dev/tty"
    pid = start(["sh", "-c", script], ENV, None, (theirs,), os.ttyname(theirs))
    name = os.ttyname(theirs)
    os.waitpid(pid, 0)
    os.close(theirs)
    text = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as shown:  # EIO: its end
        while piece := shown.read(1000):
            text += piece
    assert text.decode().split() == [name, name, name, "named"]


@pytest.mark.parametrize(
    ("argv", "cwd", "subject", "number"),
    [
        (["no_such_program"], None, "program", errno.ENOENT),
        (["/nowhere"], None, "program", errno.ENOENT),
        (["/etc/passwd"], None, "program", errno.EACCES),
        (["/tmp"], "/tmp", "program", errno.EACCES),
        (["true"], "/nowhere", "cwd", errno.ENOENT),
        (["true"], "/etc/passwd", "cwd", errno.ENOTDIR),
        (["/nowhere"], "/nowhere", "cwd", errno.ENOENT),
        (["true", "a\0b"], None, "program", errno.EINVAL),
        (["true", "\ud800"], None, "program", errno.EINVAL),
        (["true"], "a\0b", "cwd", errno.EINVAL),
        ([], None, "program", errno.EINVAL),
        (["true", *["x" * 100_000] * 30], None, "program", errno.E2BIG),
    ],
)
def test_a_refusal_says_what_was_refused(argv, cwd, subject, number):
    """The directory or the program, and the kernel's number; afterwards we are where we were."""
    with pytest.raises(StartRefusedError) as refused:
        output_of(argv, cwd=cwd)
    assert (refused.value.subject, refused.value.errno) == (subject, number)
    assert refused.value.strerror
    assert Path.cwd() == Path("/")


def test_what_is_found_but_may_not_be_executed_is_not_missing(tmp_path):
    """The user is told of the permission, not of the name."""
    script(tmp_path / "a" / "mine", mode=0o644)
    with pytest.raises(StartRefusedError) as refused:
        output_of(["mine"], {"PATH": str(tmp_path / "a")})
    assert refused.value.errno == errno.EACCES


def test_a_script_without_an_interpreter_line_is_refused(tmp_path):
    """It is no program; whoever wants a shell asks for one."""
    with pytest.raises(StartRefusedError) as refused:
        output_of([str(script(tmp_path / "a" / "mine", "echo fine\n"))])
    assert refused.value.errno == errno.ENOEXEC


REFUSED_FORKS = """
import os, resource
from ccexecd.process.starting import StartRefusedError, start
if os.geteuid() == 0:  # root may start as many as it likes
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
refusals, before = [], os.listdir("/proc/self/fd")
for _ in range(3):
    try:
        start(["true"], {"PATH": os.defpath}, None, (0, 1, 2), prepare=lambda: None)
    except StartRefusedError as refused:
        refusals.append(refused.errno)
print(refusals, len(os.listdir("/proc/self/fd")) - len(before))
"""


def test_a_fork_that_is_refused_leaves_no_descriptor():
    """As many processes as may be: the keeper, which is asked again and again, does not run out of descriptors."""
    done = subprocess.run([sys.executable, "-c", REFUSED_FORKS], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[errno.EAGAIN] * 3} 0\n"
