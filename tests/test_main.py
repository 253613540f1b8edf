"""The program `ccexecd`, started as people start it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccexecd import __version__
from ccexecd.keys import FIELDS, rules
from ccexecd.pidfile import PidFile, is_locked, running_pid, signal_daemon

STAND_IN = """
import json, os, signal, sys, types

def run(loaded, places, *, listen_fds, ready, umask, log_output):
    # What a daemon does, without the daemon: it is ready, and waits for SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    (places.state_dir / "given").write_text(json.dumps({
        "pid": os.getpid(), "listen_fds": listen_fds, "umask": umask, "log": str(log_output.path),
        "config": loaded.config.as_public_dict(), "places": {n: str(getattr(places, n)) for n in places.__slots__},
        "ppid": os.getppid(),
    }))
    ready()
    signal.sigwait({signal.SIGTERM})
    return 0

import ccexecd
ccexecd.daemon = sys.modules["ccexecd.daemon"] = types.ModuleType("ccexecd.daemon")
ccexecd.daemon.run = run
from ccexecd.__main__ import main
sys.exit(main())
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose daemon is gone afterwards."""
    directory = tmp_path / "state"
    yield directory
    signal_daemon(directory / "ccexecd.pid", signal.SIGKILL)
    eventually(lambda: not is_locked(directory / "ccexecd.pid"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings of this machine's user."""
    earlier = {rules(key).earlier for key in FIELDS}
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CCEXECD_", "XDG_"))}
    return {name: value for name, value in ours.items() if name not in earlier} | {"HOME": str(tmp_path / "home")}


@pytest.fixture
def run(state: Path, environ: dict[str, str]) -> Run:
    """Run `ccexecd --state-dir …` with a stand-in for the daemon proper, to its end."""

    def run(*arguments: str, **more: Any):
        command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state), *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60, **more)

    return run


def eventually(is_so: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.01)


def given(state: Path) -> dict[str, Any]:
    """Return what the daemon was called with."""
    return json.loads((state / "given").read_text())


def test_start_says_so(run: Run, state: Path):
    """A start prints one line with pid and address and exits 0; the daemon then holds its pidfile."""
    told = run()
    pid = running_pid(state / "ccexecd.pid")
    assert (told.returncode, told.stderr) == (0, "")
    assert (
        told.stdout
        == f"ccexecd: started (pid {pid}), listening on 127.0.0.1:8003, control socket {state}/control.sock\n"
    )


def test_second_start_says_who_runs(run: Run, state: Path):
    """A second start prints the pid of the first one and exits 1."""
    run()
    told = run("--port", "9000")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"ccexecd: already running (pid {running_pid(state / 'ccexecd.pid')})")
    assert len(told.stderr.splitlines()) == 1


def test_twenty_simultaneous_starts(state: Path, environ: dict[str, str]):
    """Of twenty starts at the same moment exactly one becomes the daemon; every other one names its pid."""
    command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state)]
    starts = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    answers = [(*start.communicate(timeout=60), start.returncode) for start in starts]
    pid = running_pid(state / "ccexecd.pid")
    assert sorted(code for *_, code in answers) == [0] + [1] * 19
    assert [told for told, _, code in answers if code == 0] == [
        f"ccexecd: started (pid {pid}), listening on 127.0.0.1:8003, control socket {state}/control.sock\n"
    ]
    refusals = [complaint for _, complaint, code in answers if code]
    assert all(complaint.startswith(f"ccexecd: already running (pid {pid})") for complaint in refusals)


def test_start_while_another_is_starting(run: Run, state: Path):
    """A lock whose holder does not name itself in time is reported as a daemon that is starting."""
    state.mkdir()
    holder = PidFile(state / "ccexecd.pid").acquire()
    told = run()
    holder.release()
    assert told.returncode == 1
    assert told.stderr.startswith("ccexecd: is starting")


def test_start_after_a_kill(run: Run, state: Path):
    """After `kill -9` the next start just works, whatever process has the old number now."""
    run()
    signal_daemon(state / "ccexecd.pid", signal.SIGKILL)
    eventually(lambda: not is_locked(state / "ccexecd.pid"))
    assert (state / "ccexecd.pid").exists()
    (state / "ccexecd.pid").write_text(f"{os.getpid()}\n")
    assert run().returncode == 0
    assert running_pid(state / "ccexecd.pid") == given(state)["pid"] != os.getpid()


def test_flags_reach_the_daemon(run: Run, state: Path, tmp_path: Path):
    """Every flag sets its key, with paths made absolute; the places follow."""
    flags = {
        "host": "::1",
        "port": 9000,
        "control_socket": "c.sock",
        "pidfile": "here.pid",
        "log_file": "logs/x.log",
        "log_level": "warning",
        "debug": True,
        "max_sessions": 7,
    }
    words = [
        word
        for key, value in flags.items()
        for word in (f"--{key.replace('_', '-')}", str(value))
        if value is not True or word.startswith("--")
    ]
    told = run(*words, cwd=tmp_path)
    try:
        assert told.returncode == 0, told.stderr
        config, places = given(state)["config"], given(state)["places"]
        assert (config["host"], config["port"], config["max_sessions"]) == ("::1", 9000, 7)
        assert (config["debug"], config["log_level"]) == (True, "debug")
        assert places["control_socket"] == str(tmp_path / "c.sock")
        assert places["log_file"] == given(state)["log"] == str(tmp_path / "logs" / "x.log")
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
        assert running_pid(tmp_path / "here.pid") == given(state)["pid"]
    finally:
        signal_daemon(tmp_path / "here.pid", signal.SIGKILL)
        eventually(lambda: not is_locked(tmp_path / "here.pid"))


def test_relative_state_dir(environ: dict[str, str], state: Path):
    """A relative state directory counts from where the start was, not from where the daemon lives."""
    command = [sys.executable, "-c", STAND_IN, "--state-dir", state.name]
    subprocess.run(command, env=environ, cwd=state.parent, check=True, capture_output=True, timeout=60)
    assert given(state)["places"]["state_dir"] == str(state)


def test_original_umask_is_passed_on(run: Run, state: Path):
    """Commands can get the umask of the starter although the daemon's own files are private."""
    assert run(umask=0o027).returncode == 0
    assert given(state)["umask"] == 0o027
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "given").stat().st_mode & 0o777 == 0o600
    assert (state / "ccexecd.pid").stat().st_mode & 0o777 == 0o644


def test_places_without_state_dir(environ: dict[str, str], tmp_path: Path):
    """Without --state-dir, a user's daemon lives in the XDG directories, which are created private."""
    if os.geteuid() == 0:
        pytest.skip("root's daemon would use the system's directories")
    told = subprocess.run([sys.executable, "-c", STAND_IN], env=environ, check=False, capture_output=True, timeout=60)
    pidfile = tmp_path / "home/.local/state/ccexecd/run/ccexecd.pid"
    try:
        assert told.returncode == 0
        assert pidfile.parent.stat().st_mode & 0o777 == 0o700
    finally:
        signal_daemon(pidfile, signal.SIGKILL)


def test_foreground(state: Path, environ: dict[str, str]):
    """--foreground is the daemon itself: it holds the lock, logs to stderr and leaves no log file."""
    command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state), "--foreground"]
    daemon = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        eventually((state / "given").exists)
        assert running_pid(state / "ccexecd.pid") == daemon.pid
        told = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert told.stderr.startswith(f"ccexecd: already running (pid {daemon.pid})")
    finally:
        daemon.terminate()
        _, complaints = daemon.communicate(timeout=20)
    assert (daemon.returncode, complaints) == (0, "")
    assert given(state)["log"] == "None"
    assert not (state / "ccexecd.log").exists()
    assert not (state / "ccexecd.pid").exists()


def test_foreground_makes_no_log_directory(state: Path, environ: dict[str, str], tmp_path: Path):
    """Where logs go to stderr, as under systemd, no log directory is needed, nor created."""
    command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state), "--foreground", "--log-file", "logs/x.log"]
    daemon = subprocess.Popen(command, env=environ, cwd=tmp_path)
    try:
        eventually((state / "given").exists)
    finally:
        daemon.terminate()
        daemon.wait(20)
    assert not (tmp_path / "logs").exists()


def test_sockets_of_systemd_reach_the_daemon(state: Path, environ: dict[str, str]):
    """Sockets that systemd opened are passed on by name, and stay open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", STAND_IN, "--state-dir", str(state), "--foreground"]
        script = f'exec 3>&{server.fileno()}; export LISTEN_PID=$$; exec "$@"'
        activation = {**environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "ws"}
        daemon = subprocess.Popen(["bash", "-c", script, "bash", *words], env=activation, pass_fds=[server.fileno()])
    try:
        eventually((state / "given").exists)
        assert given(state)["listen_fds"] == {"ws": [3]}
        assert str(Path(f"/proc/{daemon.pid}/fd/3").readlink()).startswith("socket:")
    finally:
        daemon.terminate()
        daemon.wait(20)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(state: Path, environ: dict[str, str], closed: str):
    """A starter without stdin, stdout or stderr gets a sound daemon: its lock is not on one of their descriptors."""
    command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state)]
    script = ["bash", "-c", f'exec "$@" {closed}', "bash", *command]
    told = subprocess.run(script, env=environ, check=False, timeout=60)
    assert told.returncode == 0
    pid = running_pid(state / "ccexecd.pid")
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{pid}/fd/2").readlink() == state / "ccexecd.log"


def test_reader_of_stdout_is_gone(state: Path, environ: dict[str, str]):
    """That nobody reads the announcement does not make the start a failure."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", STAND_IN, "--state-dir", str(state)]
    told = subprocess.run(command, env=environ, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert running_pid(state / "ccexecd.pid")
    assert b"Traceback" not in told.stderr


def test_starter_never_loads_trio(run: Run, environ: dict[str, str], tmp_path: Path):
    """At every fork there is one thread and no Trio, with the whole of the program loaded that comes before."""
    guard = (
        "import os, sys, threading\n"
        "def check():\n"
        "    assert threading.active_count() == 1\n"
        "    assert 'trio' not in sys.modules\n"
        "    os.write(2, b'fork\\n')\n"
        "os.register_at_fork(before=check)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(guard)
    environ["PYTHONPATH"] = f"{tmp_path}:{environ.get('PYTHONPATH', '')}"
    assert run("--max-sessions", "3").stderr == "fork\n" * 3


def test_all_problems_of_the_configuration(run: Run, state: Path):
    """A bad configuration starts nothing: every problem is printed on its own line; 2 tells that a flag is wrong."""
    state.mkdir()
    (state / "ccexecd.toml").write_text('prot = 1\nmax_sessions = "many"\n')
    assert run().returncode == 1
    told = run("--port", "70000")
    assert (told.returncode, told.stdout) == (2, "")
    assert [line.split(":")[1].split()[0] for line in told.stderr.splitlines()] == ["prot", "max_sessions", "port"]
    assert all(line.startswith("ccexecd: ") for line in told.stderr.splitlines())
    assert not (state / "ccexecd.pid").exists()


def test_named_configuration_must_exist(run: Run, tmp_path: Path):
    """--config with a file that is not there is an error that names it."""
    told = run("--config", "missing.toml", cwd=tmp_path)
    assert told.returncode == 1
    assert told.stderr == f"ccexecd: file {tmp_path}/missing.toml: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [["--port", "http"], ["--log-level", "loud"], ["--nope"], ["surplus"], ["--port"], ["--max", "3"]],
)
def test_wrong_command_line(run: Run, arguments: list[str]):
    """A command line that makes no sense is answered with the usage and exit code 2."""
    told = run(*arguments)
    assert told.returncode == 2
    assert told.stderr.startswith("usage: ccexecd ")


def test_state_dir_that_cannot_be_made(run: Run, state: Path):
    """A state directory that cannot be used: one line with what, where, why and what to do; exit 1."""
    state.write_text("in the way")
    told = run()
    assert told.returncode == 1
    assert told.stderr == (
        f"ccexecd: cannot use the state directory {state}: Not a directory; choose another with --state-dir DIR\n"
    )
    state.unlink()


def test_log_that_cannot_be_opened(run: Run, state: Path):
    """A log that cannot be opened: the same, and the lock is free again."""
    (state / "ccexecd.log").mkdir(parents=True)
    told = run()
    assert (told.returncode, told.stderr) == (1, f"ccexecd: cannot use {state}/ccexecd.log: Is a directory\n")
    assert not (state / "ccexecd.pid").exists()


def test_pidfile_that_is_a_link(run: Run, state: Path, tmp_path: Path):
    """A pidfile that is a symbolic link is not followed."""
    state.mkdir()
    (state / "ccexecd.pid").symlink_to(tmp_path / "victim")
    told = run()
    (state / "ccexecd.pid").unlink()
    assert told.returncode == 1
    assert told.stderr.startswith(f"ccexecd: cannot use {state}/ccexecd.pid: Too many levels of symbolic links")
    assert not (tmp_path / "victim").exists()


def test_version(run: Run):
    """--version prints name and version."""
    assert run("--version").stdout == f"ccexecd {__version__}\n"


def test_check_finds_what_a_start_would_refuse(run: Run, environ: dict[str, str]):
    """A restart, which asks this first, ends nothing for an address that must not be listened on."""
    done = run("--check", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "host (flag --host): 0.0.0.0 is beyond loopback, without TLS" in done.stderr
    environ["CCEXECD_ALLOW_PLAINTEXT"] = "true"
    assert run("--check", "--host", "0.0.0.0").returncode == 0


def test_check_starts_nothing(run: Run, state: Path):
    """--check tells whether the configuration is valid, as a start would, and leaves no trace."""
    assert run("--check").stdout == "ccexecd: the configuration is valid\n"
    assert not state.exists()
    assert run("--check", "--port", "70000").returncode == 2


def test_help(run: Run):
    """--help has examples that can be parsed, explains every flag and tells no key that does not exist."""
    told = run("--help")
    assert told.returncode == 0
    examples = re.findall(r"^  ccexecd(?: (.*?))?  ", told.stdout.split("examples:")[1], re.MULTILINE)
    assert len(examples) == 3
    documented = set(re.findall(r"^  --([a-z-]+)", told.stdout, re.MULTILINE)) - {
        "foreground",
        "config",
        "check",
        "version",
    }
    assert {flag.replace("-", "_") for flag in documented} < set(FIELDS)


def test_real_daemon(state: Path, environ: dict[str, str]):
    """The real one starts from the real command, answers its port, and goes on TERM without a trace but its log."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "ccexecd", "--state-dir", str(state), "--port", str(port)]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    pid = running_pid(state / "ccexecd.pid")
    assert (told.returncode, told.stderr) == (0, "")
    assert (
        told.stdout
        == f"ccexecd: started (pid {pid}), listening on 127.0.0.1:{port}, control socket {state}/control.sock\n"
    )
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    second = [*command[:-3], f"{state}-2", "--port", str(port)]
    told = subprocess.run(second, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1
    assert "address already in use" in told.stderr.lower()
    assert signal_daemon(state / "ccexecd.pid", signal.SIGTERM)
    eventually(lambda: not is_locked(state / "ccexecd.pid"))
    assert {path.name for path in state.iterdir()} == {"audit", "ccexecd.log", "history.db", "token"}
