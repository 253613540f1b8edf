"""start: success means that both doors answer, and everything else has a reason."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ccexecctl import launch
from ccexecd import pidfile


def test_start_returns_when_both_doors_answer(ctl, stand_in):
    """Exit 0, with the pid and the address that others need."""
    said = ctl("start", "--port", "0")
    assert said.code == 0
    pid = pidfile.running_pid(stand_in.pidfile)
    assert said.out.startswith(f"ccexecd started (pid {pid}), listening on 127.0.0.1:")
    assert ctl("health").code == 0


def test_start_of_a_running_one_says_so(ctl, stand_in):
    """Exit 0 and its pid: what was asked for is so."""
    first = ctl("start", "--json").json
    second = ctl("start", "--json")
    assert second.code == 0
    assert (first["result"], second.json["result"]) == ("started", "already_running")
    assert second.json["pid"] == first["pid"]
    assert f"already running (pid {first['pid']})" in ctl("start").out


def test_the_flags_reach_the_daemon(ctl, stand_in, tmp_path, monkeypatch):
    """--state-dir, --host, --port, --config (made absolute) and what follows --."""
    monkeypatch.chdir(tmp_path)
    assert ctl("start", "--host", "::1", "--port", "0", "--config", "x.toml", "--", "--max-sessions", "5").code == 0
    place = ["--state-dir", str(stand_in.directory)]
    flags = ["--host", "::1", "--port", "0", "--config", str(tmp_path / "x.toml"), "--max-sessions", "5"]
    assert stand_in.started()[0]["argv"] == [*place, *flags]


def test_a_named_socket_reaches_the_daemon(ctl, stand_in, tmp_path):
    """--socket says where ctl looks, so that is where the daemon has to listen."""
    elsewhere = str(tmp_path / "else.sock")
    assert ctl("--socket", elsewhere, "start").code == 0
    assert stand_in.started()[0]["argv"][2:] == ["--control-socket", elsewhere]
    assert ctl("--socket", elsewhere, "health").code == 0


def test_a_refusal_is_relayed(ctl, stand_in):
    """The daemon's own reason and hint, and exit 1."""
    said = ctl("start", "--", "--fault", "refuse")
    assert said[:2] == (1, "")
    assert said.err.splitlines() == [
        "ccexecctl: cannot start ccexecd: cannot listen on 127.0.0.1:8003: address already in use",
        "hint: choose another with --port N",
    ]


def test_a_port_that_is_taken_has_a_way_out():
    """Also for verbs that start a daemon by themselves and have no --port, as beside the machine's daemon."""
    taken = launch._explain("ccexecd: cannot listen on 127.0.0.1:8003: address already in use\n", 1)
    assert "ccexecctl start --port 0" in taken.hint
    assert not launch._explain("ccexecd: it is Monday\n", 1).hint


def test_wrong_flags_are_wrong_usage(ctl, stand_in):
    """What ccexecd's own command line rejects is exit 2 here as well."""
    assert ctl("start", "--", "--port", "x").code == 2


def test_a_daemon_that_vanishes_is_no_success(ctl, stand_in):
    """Ready once is not running: exit 1, and where its log is."""
    said = ctl("start", "--", "--fault", "dies")
    assert said.code == 1
    assert f"hint: its log: {stand_in.directory}/ccexecd.log" in said.err


def test_a_silent_door_is_no_success(ctl, stand_in):
    """The control socket alone is not enough."""
    said = ctl("start", "--timeout", "5", "--", "--fault", "door")
    assert said.code == 1
    assert "/health does not" in said.err


def test_a_start_that_hangs_is_given_up(ctl, stand_in):
    """--timeout bounds the start."""
    said = ctl("start", "--timeout", "1", "--", "--fault", "hang")
    assert said.code == 1
    assert "did not become ready in time" in said.err


def test_a_daemon_that_does_not_answer_is_given_up(ctl, daemon):
    """--timeout bounds the wait for a daemon that is there, too."""
    daemon.answers["health"] = lambda *_: None
    before = time.monotonic()
    assert ctl("start", "--timeout", "0.5").code == 1
    assert time.monotonic() - before < 5


def test_a_slow_start_of_somebody_else_is_waited_for(ctl, ctl_process, stand_in):
    """Who comes second waits for the first one's daemon, and both succeed."""
    first = ctl_process("start", "--", "--fault", "slow")
    deadline = time.monotonic() + 10
    while not pidfile.is_locked(stand_in.pidfile):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said = ctl("start")
    assert said.code == 0
    assert "already running" in said.out
    assert first.wait(timeout=20) == 0


def test_twenty_starts_are_one_daemon(ctl_process, stand_in):
    """Simultaneous starts: one daemon, all say its pid, all exit 0."""
    processes = [ctl_process("start", "--json") for _ in range(20)]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 20
    assert len({answer["pid"] for answer in answers}) == 1
    assert sorted(answer["result"] for answer in answers) == ["already_running"] * 19 + ["started"]


def test_a_draining_daemon_is_succeeded(ctl, stand_in, stopped_daemon):
    """start during a stop waits for the old daemon's end and starts a new one."""
    stopped_daemon.hold_lock()
    stopped_daemon.listen()
    stopped_daemon.answers["status"] |= {"state": "draining"}
    ending = threading.Timer(0.3, stopped_daemon.close)
    ending.start()
    said = ctl("start", "--json")
    ending.join()
    assert said.json["result"] == "started"
    assert said.json["pid"] != os.getpid()


def test_run_starts_a_daemon_and_says_so(ctl, stand_in):
    """`run` without a daemon starts one, on stderr, and then asks it; the next one finds it."""
    said = ctl("run", "--json", "--", "true")
    assert f"ccexecctl: started ccexecd (pid {pidfile.running_pid(stand_in.pidfile)})" in said.err
    assert "started ccexecd" not in ctl("run", "--", "true").err


def test_the_caller_s_directory_is_no_package(tmp_path, monkeypatch):
    """A module in the caller's directory cannot pass for one of the daemon's."""
    assert "-P" in launch.DAEMON
    (tmp_path / "ccexecd.py").write_text("raise SystemExit('hijacked')")
    command = ["python", *launch.DAEMON, "--help"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "hijacked" not in said.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:{port}", "127.0.0.1:{port}"])
def test_the_door_is_asked_where_it_can_be_reached(address):
    """A daemon that listens on every address is asked on loopback."""
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        launch._check_door(address.format(port=port), time.monotonic() + 5)
        thread.join()


def test_flags_that_had_no_effect_are_named(ctl, stand_in):
    """A daemon that runs keeps its settings: exit 0, where it listens, and which flags were for nothing."""
    first = ctl("start", "--json").json
    said = ctl("start", "--port", "9601")
    assert said.code == 0
    assert f"listening on {first['address']}" in said.out
    assert "it keeps the settings that it was started with; not used: --port 9601" in said.err
    assert ctl("start", "--port", "9601", "--json").json["unused_flags"] == ["--port", "9601"]
    host, _, port = first["address"].rpartition(":")
    assert ctl("start", "--host", host, "--port", port).err == ""


def test_a_directory_that_is_not_ours_is_not_permitted(tmp_path):
    """Another user's state directory: exit 4, as with every other verb, and the directory is named."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.name.startswith("pytest-"):
            directory.chmod(0o755)
    tmp_path.chmod(0o755)
    program = (
        "import os, shlex, subprocess, sys; from ccexecctl import __main__ as ctl, commands; commands.load('start')\n"
        "os.setuid(65534) if os.geteuid() == 0 else os.chmod(sys.argv[1], 0)\n"
        "sys.exit(ctl.main(['--state-dir', sys.argv[1] + '/x', 'start']))"
    )
    command = [sys.executable, "-c", program, str(closed)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    closed.chmod(0o700)
    assert said.stderr.startswith(f"ccexecctl: the state directory {closed}/x is not accessible: permission denied\n")
    assert said.returncode == 4
