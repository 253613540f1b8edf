"""ccexecctl against the real daemon, both as processes of their own, the way people use them."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccexecd import pidfile

Done = subprocess.CompletedProcess


class Ctl:
    """Calls ccexecctl about one daemon."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.pidfile = state_dir / "ccexecd.pid"
        self.children: list[subprocess.Popen[bytes]] = []

    def __call__(self, *words: str, **options: Any) -> "Done[str]":
        """Call, and wait for the end."""
        return subprocess.run(self._command(words), capture_output=True, text=True, check=False, timeout=60, **options)

    def ok(self, *words: str, **options: Any) -> str:
        """Call, and be told that it went well. Returns stdout without its last line feed."""
        done = self(*words, **options)
        assert done.returncode == 0, done
        return done.stdout.rstrip("\n")

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.ok(*words, "--json", **options))

    def begin(self, *words: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Call, and do not wait."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.children.append(subprocess.Popen(self._command(words), **pipes))
        return self.children[-1]

    def detached(self, *command: str) -> str:
        """Run a command in the background. Returns its id."""
        return self.ok("run", "--detach", "--", *command)

    def known(self, execution_id: str) -> Any:
        """What `ps` tells of an execution."""
        return next(each for each in self.json("ps", "--all") if each["execution_id"] == execution_id)

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ccexecctl", "--state-dir", str(self.state_dir), *words]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctl]:
    """No daemon yet, in a place of its own, on a free port; whatever was started is ended."""
    for name in [name for name in os.environ if name.startswith("CCEXECD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CCEXECD_PORT", "0")
    ctl = Ctl(tmp_path / "d")
    yield ctl
    for child in ctl.children:
        child.kill()
        child.communicate()
    ctl("stop", "--grace", "0", "--force")
    assert not pidfile.is_locked(ctl.pidfile)


@pytest.fixture
def ctl(stopped: Ctl) -> Ctl:
    """A running daemon."""
    stopped.ok("start")
    return stopped


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait for a condition, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return found


def process_state(pid: int) -> str:
    """The letter of /proc/PID/stat: a zombie is as good as gone; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    return process_state(pid) in {"", "Z", "X"}


# Life of the daemon


def test_start_status_stop(stopped):
    """The daemon's life as seen from outside, with the exit code of each moment."""
    assert stopped("status").returncode == 3
    started = stopped.json("start")
    status = stopped.json("status")
    assert started["pid"] == status["pid"] == pidfile.running_pid(stopped.pidfile)
    assert {"pid", "state", "version", "uptime_seconds", "address", "sessions", "executions"} <= status.keys()
    assert stopped.ok("health") == "healthy"
    assert "already running" in stopped.ok("start")
    assert f"(pid {status['pid']})" in stopped.ok("stop")
    assert eventually(
        lambda: is_gone(status["pid"])
    )  # stop returns when the lock is free, which is the daemon's last deed
    assert stopped("status").returncode == stopped("health").returncode == stopped("ps").returncode == 3
    assert stopped.ok("stop") == "ccexecd is not running"


def test_twenty_starts_are_one_daemon(stopped):
    """Simultaneous starts: one daemon, everybody is told of it and succeeds."""
    starts = [stopped.begin("start", "--json") for _ in range(20)]
    answers = [json.loads(start.communicate(timeout=90)[0]) for start in starts]
    assert [start.returncode for start in starts] == [0] * 20
    assert len({answer["pid"] for answer in answers}) == 1
    assert sorted(answer["result"] for answer in answers) == ["already_running"] * 19 + ["started"]


def test_simultaneous_runs_start_one_daemon(stopped):
    """`run` without a daemon starts one; of many at once, one says so, and all get their output."""
    runs = [stopped.begin("run", "--", "echo", str(number)) for number in range(8)]
    said = [run.communicate(timeout=90) for run in runs]
    assert [out for out, _ in said] == [b"%d\n" % number for number in range(8)]
    assert [run.returncode for run in runs] == [0] * 8
    assert sum(b"ccexecctl: started ccexecd (pid " in err for _, err in said) == 1


def test_a_killed_daemon_is_succeeded(ctl):
    """After kill -9, nothing of it stays: not its commands, not its lock; the next start just works."""
    pid = ctl.json("status")["pid"]
    execution = ctl.known(ctl.detached("sleep", "600"))
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not pidfile.is_locked(ctl.pidfile))
    assert ctl("status").returncode == 3
    assert eventually(lambda: is_gone(execution["pid"]))
    assert ctl.json("start")["pid"] != pid
    assert ctl.ok("run", "--", "echo", "again") == "again"


def test_restart_keeps_the_port(ctl):
    """A new daemon, the old address; what had to be ended is told."""
    before = ctl.json("status")
    execution_id = ctl.detached("sleep", "600")
    answer = ctl.json("restart")
    assert answer["previous_pid"] == before["pid"] != answer["pid"]
    assert answer["address"] == before["address"]
    assert [each["execution_id"] for each in answer["ended"]] == [execution_id]


def test_stop_reports_what_it_ended(ctl):
    """A command that runs gets TERM and is told of; it is gone when stop returns."""
    execution_id = ctl.detached("sleep", "600")
    pid = ctl.known(execution_id)["pid"]
    answer = ctl.json("stop")
    assert [(each["execution_id"], each["reason"]) for each in answer["ended"]] == [(execution_id, "shutdown")]
    assert is_gone(pid)


def test_a_drain_lets_it_finish(ctl, tmp_path):
    """--drain waits for what runs: it ends by itself, and completely."""
    ctl.detached("sh", "-c", f"sleep 1; echo done > {tmp_path}/out")
    ctl.ok("stop", "--drain", "30")
    assert (tmp_path / "out").read_text() == "done\n"


def test_a_frozen_daemon_is_ended_by_force(ctl):
    """One that does not answer: a failure with a hint; with --force it is ended all the same."""
    pid = ctl.json("status")["pid"]
    os.kill(pid, signal.SIGSTOP)
    refused = ctl("stop", "--timeout", "0.5")
    assert refused.returncode == 1
    assert "did not answer" in refused.stderr
    assert ctl.json("stop", "--timeout", "0.5", "--force")["result"] == "killed"
    assert is_gone(pid)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--port", "{taken}"], "{taken}"),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (["--config", "{bad_config}"], "max_sessions"),
        (["--", "--log-file", "/proc/nowhere/x"], "/proc/nowhere"),
    ],
)
def test_a_start_that_cannot_be_says_why(stopped, tmp_path, flags, reason):
    """The reason, in words, on stderr; exit 1; and nothing is left running."""
    bad_config = tmp_path / "bad.toml"
    bad_config.write_text("max_sessions = 'many'\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {"taken": server.getsockname()[1], "bad_config": bad_config}
        done = stopped("start", *(flag.format_map(given) for flag in flags))
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason.format_map(given) in done.stderr
    assert "Traceback" not in done.stderr
    assert not pidfile.is_locked(stopped.pidfile)


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(stopped):
    """Whole or not at all: the old one stays in force, and every problem is listed."""
    stopped.state_dir.mkdir()
    file = stopped.state_dir / "ccexecd.toml"
    file.write_text("max_sessions = 7\n")
    stopped.ok("start")
    file.write_text("max_sessions = 8\nhost = '127.0.0.2'\n")
    assert stopped.json("reload") == {"changed": ["max_sessions"], "needs_restart": ["host"]}
    file.write_text("max_sessions = 0\nprot = 1\n")
    refused = stopped("reload")
    assert refused.returncode == 1
    assert refused.stderr.count("max_sessions") == refused.stderr.count("prot") == 1
    shown = stopped.json("config", "show")
    assert shown["config"]["max_sessions"] == 8
    assert shown["sources"]["max_sessions"] == f"file {file}"
    assert stopped("config", "validate", str(file)).returncode == 1


def test_a_long_place_is_a_place(stopped, tmp_path):
    """A state directory whose socket path is over the kernel's limit works like any other."""
    far = Ctl(tmp_path / ("x" * 100) / ("y" * 100))
    try:
        far.ok("start")
        assert far.ok("run", "--", "echo", "far") == "far"
    finally:
        assert far("stop", "--force").returncode == 0


# Running commands


def test_run_is_as_if_it_ran_here(ctl, tmp_path):
    """This directory, this environment, both streams, the exit code."""
    script = "pwd; echo $GREETING; echo oops >&2; exit 7"
    done = ctl("run", "--", "sh", "-c", script, cwd=tmp_path, env={**os.environ, "GREETING": "grüße"})
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{tmp_path}\ngrüße\n", "oops\n")
    assert ctl.ok("run", "--shell", "echo $((6 * 7)) | cat") == "42"


def test_a_line_is_shown_while_the_command_still_runs(ctl, tmp_path):
    """Output does not wait for the end."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = ctl.begin("run", "--", "sh", "-c", f"echo first; cat {gate}; echo last")
    assert run.stdout.readline() == b"first\n"
    assert run.poll() is None
    gate.write_text("open\n")
    assert run.communicate(timeout=30)[0] == b"open\nlast\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -9 $$"], 137),
        (["/no/such/program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_code_is_the_command_s(ctl, command, code):
    """Codes, signals, and what could not be started."""
    assert ctl("run", "--", *command).returncode == code


def test_a_time_out_is_told(ctl):
    """A command that was ended for its time exits by the signal, with the reason."""
    done = ctl("run", "--timeout", "0.3", "--", "sleep", "600")
    assert done.returncode == 143
    assert "was ended by its time-out" in done.stderr


def test_bytes_come_through(ctl, tmp_path):
    """Four megabytes of random bytes arrive as they were written, and not as text."""
    file = tmp_path / "random"
    file.write_bytes(os.urandom(4 << 20))
    run = ctl.begin("run", "--", "cat", str(file))
    received = run.communicate(timeout=60)[0]
    assert hashlib.sha256(received).digest() == hashlib.sha256(file.read_bytes()).digest()
    assert run.returncode == 0


def test_ctrl_c_cancels_and_leaves_nothing(ctl):
    """The whole tree is gone when run returns, a child in another session included."""
    run = ctl.begin("run", "--", "sh", "-c", "setsid sleep 600 & echo $!; exec sleep 600")
    child = int(run.stdout.readline())
    leader = ctl.json("ps")[0]["pid"]
    run.send_signal(signal.SIGINT)
    assert b"was cancelled" in run.communicate(timeout=30)[1]
    assert run.returncode == 143
    assert is_gone(leader)
    assert is_gone(child)


def test_a_second_ctrl_c_kills(ctl):
    """A command that ignores TERM does not have to be waited for."""
    run = ctl.begin("run", "--grace", "60", "--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGINT)
    eventually(lambda: ctl.json("ps")[0]["state"] == "TERMINATING")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == 137


def test_a_killed_run_leaves_nothing(ctl):
    """kill -9 of ccexecctl: the daemon ends what it had started for it."""
    run = ctl.begin("run", "--", "sh", "-c", "echo $$; exec sleep 600")
    pid = int(run.stdout.readline())
    run.kill()
    run.wait()
    assert eventually(lambda: is_gone(pid))


def test_a_reader_that_leaves_ends_the_command(ctl):
    """`ccexecctl run -- yes | head -1` comes to an end, quietly."""
    run = ctl.begin("run", "--", "yes")
    assert run.stdout.readline() == b"y\n"
    run.stdout.close()
    assert run.wait(timeout=30) == 141
    eventually(lambda: ctl.json("ps") == [])


def test_a_daemon_that_dies_in_the_middle_is_a_failure(ctl):
    """Nobody saw the end of the command: exit 1, and why."""
    run = ctl.begin("run", "--", "sh", "-c", "echo ready; exec sleep 600")
    assert run.stdout.readline() == b"ready\n"
    os.kill(ctl.json("status")["pid"], signal.SIGKILL)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert b"lost the connection to ccexecd" in err


def test_a_stop_ends_a_run_with_its_reason(ctl):
    """Whoever watches a command that a shutdown ends is told so."""
    run = ctl.begin("run", "--", "sh", "-c", "echo ready; exec sleep 600")
    assert run.stdout.readline() == b"ready\n"
    ctl.ok("stop")
    _, err = run.communicate(timeout=30)
    assert run.returncode == 143
    assert b"was ended by the shutdown of ccexecd" in err


# Watching and controlling them


def test_an_execution_s_life_under_control(ctl):
    """run --detach, ps, pause, resume, logs, cancel: each true when it is said, by the beginning of the id."""
    execution_id = ctl.detached("sh", "-c", "echo out; echo err >&2; exec sleep 600")
    short = execution_id[:8]
    eventually(lambda: ctl.known(execution_id)["stderr_bytes"])
    (listed,) = ctl.json("ps")
    assert {"execution_id", "state", "command", "pid", "started_at", "duration"} <= listed.keys()
    pid = listed["pid"]

    ctl.ok("pause", short)
    assert process_state(pid) == "T"
    assert ctl.known(execution_id)["state"] == "PAUSED"
    assert ctl("pause", short).returncode == 1

    ctl.ok("resume", short)
    assert process_state(pid) != "T"
    logs = ctl("logs", short)
    assert (logs.returncode, logs.stdout, logs.stderr) == (0, "out\n", "err\n")
    assert ctl.ok("logs", short, "--stdout") == "out"

    ctl.ok("cancel", short, "--grace", "5")
    assert is_gone(pid)
    assert ctl.ok("ps", "--json") == "[]"
    assert ctl.known(execution_id)["reason"] == "cancelled"
    assert ctl("cancel", short).returncode == 1


def test_kill_ends_what_ignores_term(ctl):
    """And all that it has started."""
    execution_id = ctl.detached("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait")
    child = int(eventually(lambda: ctl.ok("logs", execution_id)))
    ctl.ok("kill", execution_id)
    assert is_gone(child)
    assert ctl.known(execution_id)["signal"] == 9


def test_logs_follow_to_the_end(ctl, tmp_path):
    """Every line of a command that is still writing, and then an end; from any position."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    execution_id = ctl.detached("sh", "-c", f"echo one; cat {gate}; echo three; exit 9")
    follow = ctl.begin("logs", "-f", execution_id)
    assert follow.stdout.readline() == b"one\n"
    gate.write_text("two\n")
    assert follow.communicate(timeout=30)[0] == b"two\nthree\n"
    assert follow.returncode == 0
    chunks = ctl.json("logs", execution_id)["chunks"]
    assert "".join(chunk["data"] for chunk in chunks) == "one\ntwo\nthree\n"
    assert ctl.ok("logs", execution_id, "--since-seq", str(chunks[-1]["seq"])) in {"three", "two\nthree"}


def test_unknown_and_ambiguous_ids_are_refused(ctl):
    """Never the wrong one."""
    assert ctl("logs", "ffffffff-ffff").returncode == 1
    assert ctl("kill", "").returncode != 0


def test_every_json_is_json(ctl):
    """--json on everything that prints: stdout is one document, and nothing else, also when it failed."""
    execution_id = ctl.detached("sleep", "600")
    for words in (
        ["start"],
        ["status"],
        ["health"],
        ["version"],
        ["reload"],
        ["ps"],
        ["config", "show"],
        ["config", "validate"],
        ["pause", execution_id],
        ["resume", execution_id],
        ["logs", execution_id],
        ["run", "--", "echo", "grüße \x1b[31m"],
        ["run", "--", "/no/such/program"],
        ["kill", execution_id],
        ["kill", execution_id],
        ["stop"],
        ["stop"],
        ["status"],
    ):
        verb, *rest = words
        said = ctl(verb, "--json", *rest).stdout
        assert said.isascii()
        assert said.count("\n") == 1
        json.loads(said)


# Where it is


class Unplaced(Ctl):
    """Calls ccexecctl without naming a place."""

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ccexecctl", *words]


def test_the_configuration_file_says_where(stopped, tmp_path, monkeypatch):
    """`state_dir` in the file: every verb finds the daemon there, from the start to the end."""
    monkeypatch.setenv("CCEXECD_CONFIG", str(tmp_path / "ccexecd.toml"))
    (tmp_path / "ccexecd.toml").write_text('state_dir = "d"\n')
    ctl = Unplaced(stopped.state_dir)
    started = ctl("start", "--json")
    assert (started.returncode, started.stderr) == (0, "")
    assert json.loads(started.stdout)["state_dir"] == str(stopped.state_dir)
    assert "already running" in ctl.ok("start")
    assert ctl.ok("run", "--", "echo", "hi") == "hi"
    assert ctl.json("restart")["result"] == "restarted"
    assert "ccexecd stopped" in ctl.ok("stop")
    assert not pidfile.is_locked(stopped.pidfile)


@pytest.mark.parametrize("how", ["flag", "file", "environment"])
def test_a_control_socket_elsewhere_is_found(stopped, tmp_path, monkeypatch, how):
    """The daemon leaves a link where ccexecctl looks; nothing is left of it at the end."""
    elsewhere = tmp_path / "else" / "x.sock"
    flags = ["--", "--control-socket", str(elsewhere)] if how == "flag" else []
    if how == "file":
        stopped.state_dir.mkdir()
        (stopped.state_dir / "ccexecd.toml").write_text(f'control_socket = "{elsewhere}"\n')
    if how == "environment":
        monkeypatch.setenv("CCEXECD_CONTROL_SOCKET", str(elsewhere))
    started = stopped("start", "--timeout", "20", *flags)
    assert (started.returncode, started.stderr) == (0, "")
    assert stopped.json("status")["control_socket"] == str(elsewhere)
    assert stopped.json("restart")["control_socket"] == str(elsewhere)
    stopped.ok("stop")
    assert not elsewhere.exists()
    assert not (stopped.state_dir / "control.sock").is_symlink()


def test_a_daemon_in_no_usual_place_is_named(stopped, tmp_path):
    """With its pidfile elsewhere as well it cannot be found: start succeeds, and says how to name it."""
    flags = ["--control-socket", str(tmp_path / "x.sock"), "--pidfile", str(tmp_path / "x.pid")]
    started = stopped("start", "--timeout", "20", "--", *flags)
    assert started.returncode == 0
    assert f"name it: ccexecctl --socket {tmp_path}/x.sock status" in started.stderr
    stopped.ok("--socket", str(tmp_path / "x.sock"), "stop")
    assert not pidfile.is_locked(tmp_path / "x.pid")


@pytest.mark.parametrize("name", ["control.sock", "ccexecd.pid"])
def test_a_file_in_the_way_stays(stopped, name):
    """What is no socket, or no pidfile, is somebody's: the start is refused, and the file is as it was."""
    stopped.state_dir.mkdir()
    (stopped.state_dir / name).write_text("precious\n")
    refused = stopped("start")
    assert refused.returncode == 1
    assert f"{stopped.state_dir / name}" in refused.stderr
    assert "so it stays" in refused.stderr
    assert (stopped.state_dir / name).read_text() == "precious\n"


def test_a_restart_into_a_wrong_configuration_is_refused(ctl):
    """The whole configuration is checked while the daemon runs, and what it runs goes on."""
    execution_id = ctl.detached("sleep", "600")
    (ctl.state_dir / "ccexecd.toml").write_text("max_sessions = 0\nprot = 1\n")
    refused = ctl("restart", "--json")
    assert refused.returncode == 1
    message = json.loads(refused.stdout)["error"]["message"]
    assert message.startswith("not restarted, nothing was ended: cannot start ccexecd: ")
    assert "max_sessions" in message
    assert "prot" in message
    assert ctl.known(execution_id)["state"] == "RUNNING"


def test_run_under_an_allow_list(stopped, monkeypatch):
    """The environment that the daemon has, too, is no obstacle; another PATH is refused, and --no-env helps."""
    monkeypatch.setenv("CCEXECD_ALLOWED_COMMANDS", "echo")
    stopped.ok("start")
    assert stopped.ok("run", "--", "echo", "hi") == "hi"
    monkeypatch.setenv("PATH", f"/elsewhere:{os.environ['PATH']}")
    refused = stopped("run", "--", "echo", "hi")
    assert refused.returncode == 1
    assert "environment name PATH could make an allowed program run another one" in refused.stderr
    assert "run --no-env" in refused.stderr
    assert stopped.ok("run", "--no-env", "--", "echo", "hi") == "hi"
