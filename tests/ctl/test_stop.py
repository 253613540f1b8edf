"""stop and restart: done when the lock is free, forced only when told to."""

import json

import pytest

from ccexecctl import client, shutdown
from ccexecctl.commands import restart
from ccexecd import pidfile


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    """A daemon that will not go is given up soon."""
    monkeypatch.setattr(shutdown, "EXIT_PATIENCE", 0.5)


def test_stop_returns_when_the_lock_is_free(ctl, stand_in):
    """Exit 0, the pid, and every execution that was ended."""
    pid = ctl("start", "--json").json["pid"]
    said = ctl("stop")
    assert said.code == 0
    assert said.out.splitlines() == [f"ccexecd stopped (pid {pid})", "ended 1f0c9b2e (shutdown): sleep\\n60"]
    assert not pidfile.is_locked(stand_in.pidfile)


def test_stop_of_a_stopped_one_is_success(ctl):
    """What was asked for is so: exit 0."""
    assert ctl("stop") == (0, "ccexecd is not running\n", "")
    assert ctl("stop", "--json").json == {"result": "not_running"}
    assert ctl("stop", "--force").code == 0


def test_drain_and_grace_go_along(ctl, stand_in):
    """In seconds, and only when given."""
    ctl("start")
    assert ctl("stop", "--drain", "1.5", "--grace", "0").code == 0
    assert json.loads((stand_in.directory / "stop").read_text()) == {"drain": 1.5, "grace": 0.0}


def test_json_is_the_report(ctl, stand_in):
    """What was ended, as data."""
    ctl("start")
    answer = ctl("stop", "--json").json
    assert answer["result"] == "stopped"
    assert answer["ended"][0]["reason"] == "shutdown"


def test_a_daemon_that_dies_on_the_way_has_stopped(ctl, stand_in):
    """The lock is free, which is what was asked for; that there is no report is said."""
    ctl("start", "--", "--fault", "crash")
    said = ctl("stop")
    assert said.code == 0
    assert "without a report" in said.out


def test_a_daemon_that_answers_but_stays_is_a_failure(ctl, daemon):
    """Stopped means ended: an answer alone is not believed."""
    daemon.answers["stop"] = {"ended": [], "sessions": 0}
    said = ctl("stop")
    assert said.code == 1
    assert "has not ended yet" in said.err
    assert "--force" in said.err


def test_a_deaf_daemon_needs_force(ctl, stand_in):
    """Without --force a daemon that does not answer is left alone; with it, TERM ends it."""
    ctl("start", "--", "--fault", "deaf")
    said = ctl("stop", "--timeout", "0.2", "--grace", "0")
    assert said.code == 1
    assert pidfile.is_locked(stand_in.pidfile)
    forced = ctl("stop", "--timeout", "0.2", "--grace", "0", "--force", "--json")
    assert forced.code == 0
    assert forced.json["result"] == "terminated"
    assert forced.json["ended"] is None
    assert not pidfile.is_locked(stand_in.pidfile)


def test_force_kills_what_ignores_term(ctl, stand_in):
    """TERM first, then KILL."""
    ctl("start", "--", "--fault", "stubborn")
    assert ctl("stop", "--timeout", "0.2", "--grace", "0", "--force", "--json").json["result"] == "killed"
    assert not pidfile.is_locked(stand_in.pidfile)


def test_force_does_not_take_a_starting_one_for_a_stopped_one(ctl, stopped_daemon, monkeypatch):
    """A lock without a pid is a daemon that is only starting: there is nobody to signal, and nothing has stopped."""
    monkeypatch.setattr(client, "STARTING_PATIENCE", 0.1)
    stopped_daemon.pidfile.acquire()
    said = ctl("stop", "--force")
    assert said.code == 1
    assert "only just starting" in said.err


def test_restart_repeats_the_flags(ctl, stand_in):
    """The new daemon has the old one's flags, and the port that the old one had been given."""
    first = ctl("start", "--port", "0", "--json").json
    second = ctl("restart", "--json")
    assert second.code == 0
    assert second.json["result"] == "restarted"
    assert second.json["previous_pid"] == first["pid"] != second.json["pid"]
    assert second.json["address"] == first["address"]
    argv = stand_in.started(second.json["pid"])["argv"]
    port = first["address"].rpartition(":")[2]
    assert argv == ["--state-dir", str(stand_in.directory), "--port=0", "--max-sessions=5", f"--port={port}"]


def test_restart_repeats_the_environment(ctl, stand_in, monkeypatch):
    """Variables that configured the old daemon and are not set here are set for the new one; ours win."""
    ctl("start")
    monkeypatch.setenv("DEBUG", "false")
    environ = stand_in.started(ctl("restart", "--json").json["pid"])["environ"]
    assert environ["ALLOWED_COMMANDS"] == "ls,cat"
    assert environ["DEBUG"] == "false"
    monkeypatch.delenv("DEBUG")
    assert stand_in.started(ctl("restart", "--json").json["pid"])["environ"]["DEBUG"] == "True"


def test_restart_repeats_the_configuration_file(ctl, stand_in, monkeypatch):
    """A file that is not the usual one is named again."""
    monkeypatch.setenv("CONFIG_FILE", "/elsewhere/x.toml")
    ctl("start")
    argv = stand_in.started(ctl("restart", "--json").json["pid"])["argv"]
    assert "--config=/elsewhere/x.toml" in argv


def test_restart_of_a_stopped_one_starts_it(ctl, stand_in):
    """What was asked for is a daemon that runs."""
    said = ctl("restart", "--json")
    assert said.code == 0
    assert said.json["result"] == "started"
    assert said.json["previous_pid"] is None


def test_restart_tells_both_pids(ctl, stand_in):
    """One line for people, and what was ended."""
    pid = ctl("start", "--json").json["pid"]
    line, ended = ctl("restart").out.splitlines()
    assert line.startswith("ccexecd restarted (pid ")
    assert f"was pid {pid}" in line
    assert ended.startswith("ended 1f0c9b2e")


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/ccexecd.service\n", "ccexecd.service"),
        ("1:name=systemd:/system.slice/ccexecd.service/daemon\n0::/\n", "ccexecd.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ""),
        ("0::/system.slice/ssh.service/ccexecd-notes\n", ""),
    ],
)
def test_a_daemon_of_systemd_is_recognised(cgroups, unit):
    """What systemd started, systemd has to restart."""
    assert restart.unit_in(cgroups) == unit


def test_restart_by_force_says_what_is_lost(ctl, stand_in, monkeypatch):
    """A daemon that does not answer cannot tell its flags."""
    ctl("start", "--", "--fault", "stubborn")
    stand_in.silence()
    monkeypatch.setattr(client, "STARTING_PATIENCE", 0.2)
    assert ctl("restart", "--timeout", "0.5").code == 1
    said = ctl("restart", "--timeout", "0.5", "--force")
    assert said.code == 0
    assert "are not known" in said.err


def test_restart_with_a_wrong_configuration_ends_nothing(ctl, stand_in):
    """What could not be started again is not stopped: exit 1, and what is wrong."""
    pid = ctl("start", "--json").json["pid"]
    (stand_in.directory / "invalid").touch()
    said = ctl("restart")
    assert said.code == 1
    assert "not restarted, nothing was ended: cannot start ccexecd: max_session (file x.toml)" in said.err
    assert pidfile.running_pid(stand_in.pidfile) == pid


def test_a_restart_that_fails_half_way_tells_what_it_ended(ctl, stand_in, monkeypatch):
    """The daemon has gone and none has come: exit 1, and the report of the stop is not lost."""
    pid = ctl("start", "--json").json["pid"]
    monkeypatch.setenv("FAULT", "refuse")
    said = ctl("restart", "--json")
    assert said.code == 1
    assert said.json["error"]["previous_pid"] == pid
    assert said.json["error"]["ended"][0]["reason"] == "shutdown"
    assert "ended 1f0c9b2e (shutdown)" in said.err


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_force_is_proposed_for_a_daemon_that_hangs(ctl, daemon, verb):
    """A daemon that takes the connection and never answers: what to do about it is said."""
    daemon.answers["status"] = lambda *_: None
    said = ctl("--timeout", "0.2", verb)
    assert said.code == 1
    assert f"ccexecctl {verb} --force" in said.plain
