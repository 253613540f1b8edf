"""The configuration: four layers, strict values, and errors that say what is allowed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import attrs
import pytest

from ccexecd import policy_file
from ccexecd.config import Config, ConfigError, LoadedConfig, load
from ccexecd.hooks import file as hooks_file
from ccexecd.keys import FIELDS, allowed, rules
from ccexecd.paths import default_places

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory, so that no configuration file of this machine is read."""
    return tmp_path / "state"


@pytest.fixture
def read(state: Path):
    """Load a configuration from the text of its file, an environment and flags."""

    def read(text: str = "", environ: dict[str, str] | None = None, **flags: object) -> LoadedConfig:
        state.mkdir(exist_ok=True)
        (state / "ccexecd.toml").write_text(text)
        return load({"state_dir": str(state), **flags}, environ or {})

    return read


@pytest.fixture
def problems(read):
    """Load a configuration that must be refused and return its problems."""

    def problems(text: str = "", environ: dict[str, str] | None = None, **flags: object):
        with pytest.raises(ConfigError) as caught:
            read(text, environ, **flags)
        return caught.value.problems

    return problems


def test_defaults_are_those_of_the_earlier_system():
    """Without any setting the values are the documented ones."""
    config = load({"state_dir": "/s"}, {}).config
    assert attrs.evolve(config, state_dir=None) == Config()
    assert (config.host, config.port) == ("127.0.0.1", 8003)
    assert (config.max_sessions, config.session_timeout, config.max_buffer_size) == (100, 3600, 8_388_608)
    assert (config.stream_timeout, config.process_cleanup_timeout) == (600, 10)
    assert (config.ws_ping_interval, config.ws_ping_timeout, config.ws_max_size) == (20, 30, 10_485_760)
    assert config.allowed_commands is None
    assert config.default_execution_timeout is None


def test_stronger_layers_win(read):
    """Default < file < environment < flag, and the source of each value is known."""
    text = "max_sessions = 1\nport = 1\nresume_window = 1\n"
    loaded = read(text, {"CCEXECD_PORT": "2", "CCEXECD_RESUME_WINDOW": "2"}, port=3)
    assert (loaded.config.max_sessions, loaded.config.resume_window, loaded.config.port) == (1, 2, 3)
    assert loaded.sources["host"] == "default"
    assert loaded.sources["max_sessions"] == f"file {loaded.config_file}"
    assert loaded.sources["resume_window"] == "environment CCEXECD_RESUME_WINDOW"
    assert loaded.sources["port"] == "flag --port"
    assert loaded.files == (loaded.config_file,)


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("ALLOWED_COMMANDS", "ls, cat,,claude ", "allowed_commands", ("ls", "cat", "claude")),
        ("MAX_SESSIONS", "7", "max_sessions", 7),
        ("SESSION_TIMEOUT", "7200", "session_timeout", 7200.0),
        ("MAX_BUFFER_SIZE", "4096", "max_buffer_size", 4096),
        ("STREAM_TIMEOUT", "1.5", "stream_timeout", 1.5),
        ("PROCESS_CLEANUP_TIMEOUT", "3", "process_cleanup_timeout", 3.0),
        ("DEFAULT_EXECUTION_TIMEOUT", "60", "default_execution_timeout", 60.0),
        ("LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("DEBUG", "true", "debug", True),
        ("DEBUG", "0", "debug", False),
        ("DEFAULT_PORT", "8004", "port", 8004),
        ("WS_PING_INTERVAL", "5", "ws_ping_interval", 5.0),
        ("WS_PING_TIMEOUT", "6", "ws_ping_timeout", 6.0),
        ("WS_MAX_SIZE", "2048", "ws_max_size", 2048),
    ],
)
def test_names_of_the_earlier_system_keep_working(read, variable: str, text: str, key: str, value: object):
    """Every environment variable of the earlier system sets its key; the new name wins when both are set."""
    loaded = read("", {variable: text})
    assert getattr(loaded.config, key) == value
    assert loaded.sources[key] == f"environment {variable}"
    other = {"ALLOWED_COMMANDS": "true", "LOG_LEVEL": "error", "DEBUG": "no"}.get(variable, "5000")
    loaded = read("", {variable: text, f"CCEXECD_{key.upper()}": other})
    assert loaded.sources[key] == f"environment CCEXECD_{key.upper()}"


@pytest.mark.parametrize("key", [key for key in FIELDS if key != "state_dir"])
def test_every_key_can_be_set_in_every_layer(read, key: str, monkeypatch):
    """A key's value written to the file, to its variable or as a flag arrives as the same value."""
    monkeypatch.setattr(policy_file, "load", lambda _: None)  # there is none at that path
    monkeypatch.setattr(hooks_file, "load", lambda _: ())
    samples = {
        "port": 1,
        "log_level": "error",
        "leftovers": "detach",
        "debug": True,
        "ws_max_size": 4096,
        "max_buffer_size": 4096,
        "audit_max_bytes": 65_536,
        "policy_file": "/x/y/policy.toml",
        "hooks_file": "/x/y/hooks.toml",
        "max_buffer_lines": 5,
        "spool_total_bytes": 1 << 20,
        "max_running": 5,
        "max_per_session": 5,
        "lanes": ["builds=2", "nightly=0"],
        "estimate_redis": "unix:///run/redis.sock",
    }
    value = samples.get(key, {int: 5, float: 5.0, bool: True, tuple[str, ...]: ["a", "b"]}.get(FIELDS[key].type))
    if value is None:
        value = {"default_execution_timeout": 5.0, "post_result_grace": 5.0, "allowed_commands": ["a", "b"]}.get(
            key, "/x/y"
        )
    expected = tuple(value) if isinstance(value, list) else value
    as_text = ",".join(value) if isinstance(value, list) else str(value)
    for loaded in (
        read(f"{key} = {json.dumps(value)}"),
        read("", {f"CCEXECD_{key.upper()}": as_text}),
        read("", **{key: value}),
    ):
        assert getattr(loaded.config, key) == expected
        assert loaded.sources[key] != "default"


@pytest.mark.parametrize(
    ("lanes", "index"),
    [
        (["builds"], 0),
        (["builds="], 0),
        (["=1"], 0),
        (["builds=-1"], 0),
        (["builds=1.5"], 0),
        (["builds=1000001"], 0),
        (["a=1", "a=2"], 1),
        (["a=1", "b=٣"], 1),
    ],
)
def test_a_lane_has_a_name_and_a_limit(problems, lanes, index):
    """Anything else is refused, with the word that is at fault."""
    (problem,) = problems("", lanes=lanes)
    assert str(problem).startswith(f"lanes[{index}] (flag --lanes): must be NAME=LIMIT")


def test_empty_variable_is_not_set(read):
    """An empty environment variable, as a compose file leaves it, changes nothing."""
    loaded = read("max_sessions = 3", {"CCEXECD_MAX_SESSIONS": "", "MAX_SESSIONS": "", "ALLOWED_COMMANDS": ""})
    assert loaded.config.max_sessions == 3
    assert loaded.config.allowed_commands is None


def test_no_program_can_be_allowed(read):
    """An empty list in the file allows nothing; it is not the absence of a list."""
    assert read("allowed_commands = []").config.allowed_commands == ()


def test_debug_forces_the_log_level(read):
    """`debug` is stronger than `log_level`, in whatever layer it was set."""
    loaded = read("debug = true", {"LOG_LEVEL": "error"}, log_level="critical")
    assert loaded.config.log_level == "debug"
    assert loaded.sources["log_level"] == f"file {loaded.config_file}"
    assert read("debug = true", {"CCEXECD_DEBUG": "off"}, log_level="error").config.log_level == "error"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('port = "8003"', "expected integer, got string; it must be an integer from 0 to 65535"),
        ("port = true", "expected integer, got boolean; it must be an integer from 0 to 65535"),
        ("port = 1.0", "expected integer, got number; it must be an integer from 0 to 65535"),
        ("port = 65536", "must be an integer from 0 to 65535, got 65536"),
        ("port = -1", "must be an integer from 0 to 65535, got -1"),
        ("max_sessions = 0", "must be an integer from 1 to 100000, got 0"),
        ("resume_window = -0.5", "must be a number from 0 to 1000000000, got -0.5"),
        ("resume_window = inf", "number must be finite; it must be a number from 0 to 1000000000"),
        ("resume_window = nan", "number must be finite; it must be a number from 0 to 1000000000"),
        ("debug = 1", "expected boolean, got integer; it must be true or false"),
        ('log_level = "loud"', "must be one of debug, info, warning, error, critical, got 'loud'"),
        ('allowed_commands = "ls"', "expected array, got string; it must be a list of strings, none empty"),
        ('host = ""', "must be a string, not empty, got ''"),
        ("host = 1979-05-27", "expected string, got date; it must be a string, not empty"),
        ("pidfile = {}", "expected string, got object; it must be a path"),
    ],
)
def test_wrong_value_in_the_file(problems, state: Path, line: str, message: str):
    """A wrong type or an impossible value names the key, the file and what is allowed."""
    (problem,) = problems(line)
    assert problem.key == line.split(maxsplit=1)[0]
    assert problem.source == f"file {state}/ccexecd.toml"
    assert problem.message == message


def test_wrong_element_of_a_list(problems):
    """Of a list, the element that is wrong is named."""
    (problem,) = problems('allowed_hosts = ["a", 1]')
    assert problem.key == "allowed_hosts[1]"
    assert problem.message.startswith("expected string, got integer")


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("CCEXECD_PORT", "http", "must be an integer from 0 to 65535, got 'http'"),
        ("CCEXECD_PORT", "9" * 5000, f"must be an integer from 0 to 65535, got '{'9' * 60}'"),
        ("CCEXECD_RESUME_WINDOW", "1e400", "number must be finite; it must be a number from 0 to 1000000000"),
        ("CCEXECD_RESUME_WINDOW", " ", "must be a number from 0 to 1000000000, got ' '"),
        ("DEBUG", "express:*", "must be true or false, got 'express:*'; CCEXECD_DEBUG takes its place"),
        ("LOG_LEVEL", "loud", "must be one of debug, info, warning, error, critical, got 'loud'"),
    ],
)
def test_wrong_value_in_the_environment(problems, variable: str, text: str, message: str):
    """A text that is no value of the key's type names the variable and what is allowed."""
    (problem,) = problems("", {variable: text})
    assert problem.source == f"environment {variable}"
    assert problem.message == message


def test_wrong_flag(problems):
    """A flag with an impossible value is named as it is written on the command line."""
    (problem,) = problems("", max_sessions=0)
    assert str(problem) == "max_sessions (flag --max-sessions): must be an integer from 1 to 100000, got 0"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("max_session", "max_sessions"), ("max-sessions", "max_sessions"), ("default_port", "port"), ("Port", "port")],
)
def test_unknown_key_in_the_file(problems, key: str, suggestion: str):
    """An unknown key is refused with the one that was probably meant."""
    (problem,) = problems(f"{key} = 1")
    assert (problem.key, problem.message) == (key, f"unknown key; did you mean {suggestion}?")


def test_unknown_key_like_no_other(problems):
    """An unknown key without a similar one is refused with where all are listed, and so is a table."""
    (problem,) = problems("[server]\nport = 1\n")
    assert problem.key == "server"
    assert problem.message.endswith(" and others, see `ccexecctl config show` or docs/configuration.md")
    assert len(problem.message) < 150


def test_every_word_of_a_list_is_told(problems):
    """All that is wrong in a list is told at once, in the order of the list."""
    told = problems("allowed_commands = [1, 'ls', '', 'a\\u0000b']".replace("'", '"'))
    assert [problem.key for problem in told] == [f"allowed_commands[{index}]" for index in (0, 2, 3)]


@pytest.mark.parametrize("url", ["http://h", "redis:", "h:6379", "redis://", "redis://me:pw@h", "redis://h?password=x"])
def test_a_redis_server_is_named_without_a_password(problems, url: str):
    """The configuration is shown to whoever may look; a secret is never repeated either."""
    (problem,) = problems(f'estimate_redis = "{url}"')
    assert problem.key == "estimate_redis"
    assert "pw" not in problem.message


def test_redis_servers_that_may_be_named(read):
    """By TCP, by TLS, by a Unix socket."""
    for url in ("redis://h", "redis://h:6379/0", "rediss://h/1", "unix:///run/redis.sock"):
        assert read(f'estimate_redis = "{url}"').config.estimate_redis == url


@pytest.mark.parametrize("text", ["a,,b", "a,", " , "])
def test_no_word_of_a_list_is_empty(problems, text: str):
    """The environment is as strict as the file; only the earlier variable passes over what is empty."""
    assert {problem.source for problem in problems("", {"CCEXECD_ALLOWED_COMMANDS": text})} == {
        "environment CCEXECD_ALLOWED_COMMANDS"
    }
    problems("allowed_commands = ['a', '']")


def test_a_directory_that_is_not_ours_is_told(tmp_path: Path):
    """Somebody else's state directory is told as that, not as a file in it that nobody has named."""
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.name.startswith("pytest-"):
            directory.chmod(0o755)
    program = (
        "import os, sys, ccexecd.protocol.codec; from ccexecd.config import ConfigError, load\n"
        "os.setuid(65534) if os.geteuid() == 0 else os.chmod(sys.argv[1], 0)\n"
        "try: load({'state_dir': sys.argv[1]}, {})\n"
        "except ConfigError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "closed")], capture_output=True, text=True, check=False
    )
    assert said.stdout == (
        f"directory {tmp_path}/closed: not accessible: Permission denied; choose another with --state-dir DIR\n"
    ), said.stderr


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [("CCEXECD_MAX_SESSION", "CCEXECD_MAX_SESSIONS"), ("CCEXECD_DEFAULT_PORT", "CCEXECD_PORT")],
)
def test_unknown_variable(problems, variable: str, suggestion: str):
    """A variable with our prefix that is no key is refused: it was meant for us and would do nothing."""
    (problem,) = problems("", {variable: "1"})
    assert str(problem) == f"{variable} (environment): unknown variable; did you mean {suggestion}?"


def test_other_variables_are_not_ours(read):
    """Variables of other programs, and those that name the file and ctl's socket, are no keys."""
    assert read("", {"PATH": "/bin", "HOST": "x", "PORT": "y", "CCEXECD_SOCKET": "/s"}).config.port == 8003


def test_all_problems_are_told_at_once(problems):
    """Every layer is checked to its end, also values that a stronger layer replaces; one line each."""
    found = problems('port = "x"\nnope = 1\n', {"CCEXECD_DEBUG": "maybe"}, port=70000)
    assert [problem.source.split()[0] for problem in found] == ["file", "file", "environment", "flag"]
    assert len(str(ConfigError(found)).splitlines()) == 4


@pytest.mark.parametrize(
    "content",
    [b"port = \n", b"\xff\xfe", b"port = 1\nport = 2\n", b"a = " + b"[" * 100_000, b"port = 1\n" + b"#" * (1 << 20)],
    ids=["syntax", "no UTF-8", "twice", "nested", "endless"],
)
def test_file_that_is_no_toml(state: Path, content: bytes):
    """A file that cannot be parsed is named with the parser's reason; the other layers are checked all the same."""
    state.mkdir()
    (state / "ccexecd.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load({"state_dir": str(state)}, {"CCEXECD_PORT": "x"})
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"file {state}/ccexecd.toml: not valid TOML: ")
    assert second.startswith("port (environment CCEXECD_PORT)")


def test_default_file_may_be_absent(state: Path):
    """Without a file the other layers are enough; where it was looked for is known."""
    loaded = load({"state_dir": str(state)}, {})
    assert loaded.files == ()
    assert loaded.config_file == state / "ccexecd.toml"


def test_named_file_must_exist(tmp_path: Path):
    """A file that somebody named and that is not there, or is a directory, is an error."""
    missing = tmp_path / "missing.toml"
    for flags, environ in (({}, {"CCEXECD_CONFIG": str(missing)}), ({"state_dir": str(tmp_path)}, {})):
        with pytest.raises(ConfigError) as caught:
            load(flags, environ, None if environ else missing)
        assert str(caught.value) == f"file {missing}: No such file or directory"
    with pytest.raises(ConfigError, match="Is a directory"):
        load({}, {}, tmp_path)


def test_named_file_is_the_only_one(tmp_path: Path):
    """--config is stronger than CCEXECD_CONFIG, and that stronger than the default file."""
    for name in ("flag", "variable", "ccexecd"):
        (tmp_path / f"{name}.toml").write_text(f'host = "{name}"')
    state, environ = {"state_dir": str(tmp_path)}, {"CCEXECD_CONFIG": "variable.toml"}
    assert load(state, environ, Path("flag.toml"), directory=tmp_path).config.host == "flag"
    assert load(state, environ, directory=tmp_path).config.host == "variable"
    assert load(state, {}).config.host == "ccexecd"


def test_relative_paths_become_absolute(state: Path, tmp_path: Path, monkeypatch):
    """Paths count from the working directory; in a file, from the file's directory; ~ is the home directory."""
    monkeypatch.setenv("HOME", "/home/u")
    state.mkdir()
    (state / "ccexecd.toml").write_text('token_file = "token"\nlog_file = "~/log"\n')
    environ = {"CCEXECD_PIDFILE": "run/pid"}
    loaded = load({"state_dir": "state", "control_socket": "s"}, environ, directory=tmp_path)
    assert loaded.config.state_dir == str(state)
    assert loaded.config.token_file == str(state / "token")
    assert loaded.config.log_file == "/home/u/log"
    assert loaded.config.pidfile == str(tmp_path / "run/pid")
    assert loaded.config.control_socket == str(tmp_path / "s")


def test_places_follow_the_keys(state: Path):
    """A named path replaces the usual one; the others stay in the state directory."""
    loaded = load({"state_dir": str(state), "log_file": "/x/log"}, {})
    usual = default_places({}, state_dir=state)
    assert loaded.places() == replace(usual, log_file=Path("/x/log"))


def test_state_dir_of_any_layer_moves_the_places(tmp_path: Path):
    """A state directory from the environment or a named file counts as one from the command line."""
    (tmp_path / "c.toml").write_text('state_dir = "here"')
    assert load({}, {}, tmp_path / "c.toml").places().pidfile == tmp_path / "here" / "ccexecd.pid"
    assert load({}, {"CCEXECD_STATE_DIR": str(tmp_path)}).places().pidfile == tmp_path / "ccexecd.pid"
    assert load({}, {"CCEXECD_STATE_DIR": str(tmp_path)}).config_file == tmp_path / "ccexecd.toml"


def test_reload_uses_the_inputs_of_the_start(tmp_path: Path, monkeypatch):
    """A daemon that moved to / and lost its environment reads the same sources again."""
    monkeypatch.chdir(tmp_path)
    environ = {"CCEXECD_MAX_CONNECTIONS": "9"}
    (tmp_path / "c.toml").write_text("max_sessions = 1")
    loaded = load({"port": 1, "log_file": "log", "state_dir": None}, environ, Path("c.toml"))
    monkeypatch.chdir("/")
    environ.clear()
    (tmp_path / "c.toml").write_text("max_sessions = 2")
    again = loaded.load_again()
    assert again.config == attrs.evolve(loaded.config, max_sessions=2)
    assert again.config.log_file == str(tmp_path / "log")
    (tmp_path / "c.toml").unlink()
    with pytest.raises(ConfigError):
        loaded.load_again()


def test_import_is_light():
    """Reading a configuration happens before the forks: no Trio; cattrs only once there is a value to check."""
    code = "import sys, ccexecd.config; print([module for module in ('trio', 'cattrs') if module in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def documented_table() -> list[str]:
    """Return the rows that the keys demand of the documentation."""

    def row(key: str) -> str:
        rule, default = rules(key), FIELDS[key].default
        default = "" if default in (None, ()) else f"`{json.dumps(default)}`"
        earlier = f"`{rule.earlier}`" if rule.earlier else ""
        reload = "yes" if rule.reloadable else "restart"
        return f"| `{key}` | {allowed(key)} | {default} | {earlier} | {reload} | {rule.meaning} |"

    return [
        "| key | value | default | earlier variable | reload | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(row, FIELDS),
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_an_address_beyond_loopback_needs_tls(read, host):
    """Before anything is started: the key, its source, and what can be done; each of them does it."""
    with pytest.raises(ConfigError) as refused:
        read(f'host = "{host}"').require_secrecy()
    (problem,) = refused.value.problems
    assert problem.key == "host"
    assert problem.source.startswith("file ")
    assert all(word in problem.message for word in (host, "without TLS", "certfile", "127.0.0.1", "allow_plaintext"))
    read(f'host = "{host}"\nallow_plaintext = true').require_secrecy()
    read(f'host = "{host}"\ncertfile = "c.pem"').require_secrecy()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "build.example"])
def test_loopback_needs_none(read, host):
    """Nor does a name: what that stands for is seen when it is listened on."""
    read(host=host).require_secrecy()


def test_documentation_has_every_key():
    """The table of docs/configuration.md is what the code says; on failure, paste the table of the message."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    assert rows[: len(FIELDS) + 2] == documented_table(), "\n" + "\n".join(documented_table())


def test_documented_example_is_valid(read):
    """The example file of the documentation can be used as it is."""
    text = DOCUMENT.read_text().split("```toml\n")[1].split("```")[0]
    assert read(text).files
