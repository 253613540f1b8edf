"""config: the daemon's own when it runs, else what one would have; and a check that needs none."""

import pytest


def test_show_asks_the_daemon(ctl, daemon):
    """Every key, its value and its source."""
    daemon.answers["config"] = {
        "config": {"port": 8100, "allowed_commands": ["ls"], "shell": None},
        "sources": {"port": "flag --port", "allowed_commands": "environment ALLOWED_COMMANDS", "shell": "default"},
        "paths": {},
    }
    said = ctl("config", "show")
    assert said.code == 0
    assert [line.split(maxsplit=2) for line in said.out.splitlines()] == [
        ["KEY", "VALUE", "SOURCE"],
        ["port", "8100", "flag --port"],
        ["allowed_commands", '["ls"]', "environment ALLOWED_COMMANDS"],
        ["shell", "null", "default"],
    ]
    assert ctl("config", "show", "--json").json == {**daemon.answers["config"], "from": "daemon"}


def test_show_without_a_daemon_reads_the_files(ctl, stopped_daemon):
    """What a daemon started now would have."""
    (stopped_daemon.directory / "ccexecd.toml").write_text("port = 8111\n")
    answer = ctl("config", "show", "--json").json
    assert answer["config"]["port"] == 8111
    assert answer["sources"]["port"] == f"file {stopped_daemon.directory}/ccexecd.toml"
    assert answer["sources"]["max_sessions"] == "default"
    assert answer["from"] == "files"
    assert answer["config"]["pidfile"] is None
    assert answer["paths"]["pidfile"] == f"{stopped_daemon.directory}/ccexecd.pid"
    shown = ctl("config", "show")
    assert "ccexecd is not running: this is what one that was started now would have" in shown.err
    assert f'"{stopped_daemon.directory}/control.sock"' in shown.out


def test_a_valid_file_is_valid(ctl, tmp_path):
    """Exit 0, and which file it was."""
    file = tmp_path / "x.toml"
    file.write_text("max_sessions = 5\n")
    assert ctl("config", "validate", str(file)) == (0, f"{file}: valid\n", "")
    assert ctl("config", "validate", str(file), "--json").json == {"valid": True, "files": [str(file)]}


def test_an_address_that_must_not_be_listened_on(ctl, tmp_path):
    """What a start would refuse is not valid, and the reason is told; `show` still shows it."""
    file = tmp_path / "x.toml"
    file.write_text('host = "0.0.0.0"\n')
    said = ctl("config", "validate", str(file))
    assert said[:2] == (1, "")
    assert "host (file" in said.err
    assert "without TLS" in said.err


def test_all_problems_are_listed(ctl, tmp_path):
    """Exit 1; each problem with its key, source and what is allowed."""
    file = tmp_path / "x.toml"
    file.write_text("max_sessions = 0\nprot = 1\n")
    said = ctl("config", "validate", str(file))
    assert said[:2] == (1, "")
    assert "max_sessions" in said.err
    assert "prot" in said.err
    assert said.err.count(str(file)) >= 2


def test_a_missing_file_is_a_problem(ctl, tmp_path):
    """Who names a file means that file."""
    said = ctl("config", "validate", str(tmp_path / "none.toml"), "--json")
    assert said.code == 1
    assert "none.toml" in said.json["error"]["message"]


def test_without_a_file_the_environment_is_checked(ctl, monkeypatch):
    """The environment is part of the configuration."""
    assert ctl("config", "validate").out == "defaults and environment: valid\n"
    monkeypatch.setenv("MAX_SESSIONS", "many")
    said = ctl("config", "validate")
    assert said.code == 1
    assert "MAX_SESSIONS" in said.err


@pytest.mark.parametrize("deed", ["show", "validate"])
def test_the_environment_is_reported_without_a_daemon(ctl, monkeypatch, deed):
    """A wrong configuration is one error in both deeds."""
    monkeypatch.setenv("CCEXECD_PROT", "1")
    said = ctl("config", deed)
    assert said.code == 1
    assert "CCEXECD_PROT" in said.err
