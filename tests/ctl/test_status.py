"""status, health, version and reload: one question, one answer."""

import pytest

STATUS_KEYS = {"pid", "state", "version", "uptime_seconds", "address", "sessions", "executions"}


def test_status_shows_the_daemon(ctl, daemon):
    """One fact on each line, for people."""
    said = ctl("status")
    assert said.code == 0
    first, *facts = said.out.splitlines()
    assert first.startswith("ccexecd ")
    assert first.endswith("up 2h03m")
    assert "  executions  3 live, 4 finished, 7 started" in facts
    assert "  memory      35.0 MiB" in facts
    assert "  queue       1 waiting, 64 may run at the same time" in facts
    assert said.err == ""


def test_status_json_is_the_answer(ctl, daemon):
    """--json, before or after the verb, prints what the daemon said, and nothing else."""
    assert ctl("--json", "status").json == ctl("status", "--json").json == daemon.answers["status"]
    assert daemon.answers["status"].keys() >= STATUS_KEYS


@pytest.mark.parametrize("verb", ["status", "health", "ps", "reload", "config", "version"])
def test_json_is_ascii(ctl, daemon, verb):
    """--json output survives every terminal and every pipe."""
    command = "echo grüße \x1b[31m"
    one = {"execution_id": "e" * 36, "state": "RUNNING", "command": command, "pid": 1, "started_at": None}
    daemon.answers["list"] = {"executions": [{**one, "duration": 1.0}]}
    daemon.answers["reload"] = {"changed": [], "needs_restart": []}
    said = ctl(*([verb, "show"] if verb == "config" else [verb]), "--json")
    assert said.out.isascii()
    assert "\x1b" not in said.out
    assert said.json is not None


def test_another_version_is_warned_of(ctl, daemon):
    """A daemon that was not restarted after an upgrade is told of on stderr; the verb succeeds."""
    daemon.answers["status"] = {**daemon.answers["status"], "version": "0.0.9"}
    said = ctl("status", "--json")
    assert said.code == 0
    assert "warning: ccexecd is version 0.0.9" in said.err
    assert said.json["version"] == "0.0.9"


def test_errors_are_json_too(ctl):
    """With --json, a failure is an object on stdout and a sentence on stderr."""
    said = ctl("status", "--json")
    assert said.code == 3
    error = said.json["error"]
    assert error["name"] == "NOT_RUNNING"
    assert error["exit_code"] == 3
    assert error["message"] in said.err


def test_an_unknown_method_hints_at_the_version(ctl, daemon):
    """A daemon of another version answers with an error that is handed on, with what to do."""
    del daemon.answers["health"]
    said = ctl("health")
    assert said.code == 1
    assert "ccexecctl: no method 'health'" in said.err
    assert "hint: daemon and ccexecctl may be of different versions" in said.err


@pytest.mark.parametrize(("health", "code"), [("healthy", 0), ("draining", 1), ("degraded", 1)])
def test_health_is_an_exit_code(ctl, daemon, health, code):
    """0 only when it is healthy."""
    daemon.answers["health"] = {"status": health}
    assert ctl("health")[:2] == (code, f"{health}\n")


def test_health_of_a_stopped_daemon_is_not_running(ctl):
    """Nobody there: 3."""
    assert ctl("health").code == 3


def test_version_tells_both(ctl, daemon):
    """ctl's own version and the running daemon's."""
    said = ctl("version")
    assert [line.split()[0] for line in said.out.splitlines()] == ["ccexecctl", "ccexecd"]
    assert ctl("version", "--json").json["ccexecd"]["protocol"] == "ccexec.v1"


def test_version_needs_no_daemon(ctl):
    """Without a daemon the answer is shorter, not a failure."""
    said = ctl("version")
    assert said.code == 0
    assert "ccexecd not running" in said.out
    assert ctl("version", "--json").json["ccexecd"] is None


def test_reload_tells_what_changed(ctl, daemon):
    """What took effect, and what waits for a restart."""
    daemon.answers["reload"] = {"changed": ["log_level", "max_sessions"], "needs_restart": ["port"]}
    said = ctl("reload")
    assert said.code == 0
    assert said.out == "reloaded; changed: log_level, max_sessions\nonly after a restart: port\n"


def test_reload_lists_every_problem(ctl, daemon, refusal):
    """A configuration that is wrong is refused with all that is wrong, key by key, and exit 1."""
    problems = [
        {"path": "max_sessions", "error": "must be a number from 1, got 0", "source": "file /etc/x.toml"},
        {"path": "prot", "error": 'unknown key; did you mean "port"?', "source": "file /etc/x.toml"},
    ]
    daemon.answers["reload"] = refusal(-32111, "the configuration is not valid", problems)
    said = ctl("reload")
    assert said.code == 1
    assert said.out == ""
    assert "  max_sessions: must be a number from 1, got 0 (file /etc/x.toml)\n" in said.err
    assert 'did you mean "port"?' in said.err
    assert "hint: the running configuration is unchanged" in said.err
    assert ctl("reload", "--json").json["error"]["data"] == problems
