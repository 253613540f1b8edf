"""The keys of the configuration: the record, and what a running daemon makes of a change."""

import json

import attrs
import pytest

from ccexecd.keys import FIELDS, Config, allowed, rules


def test_update_keeps_what_cannot_change():
    """Of a new configuration a running daemon takes the reloadable keys and names the others."""
    old = Config(port=1, max_sessions=2, host="a")
    update = old.updated(Config(port=3, max_sessions=4, host="a", debug=True))
    assert update.changed == ("debug", "max_sessions")
    assert update.needs_restart == ("port",)
    assert update.config == Config(port=1, max_sessions=4, host="a", debug=True)


def test_what_a_running_daemon_binds_is_not_reloadable():
    """Exactly the keys that were used up at the start need a restart."""
    fixed = [key for key in FIELDS if not rules(key).reloadable]
    places = ["host", "port", "state_dir", "control_socket", "pidfile", "log_file", "token_file"]
    shared = ["estimate_redis", "estimate_redis_password_file"]
    assert fixed == [*places, *shared, "control_read_groups", "control_write_groups"]


def test_public_dict_is_json():
    """`ccexecctl config show` gets every key as plain JSON."""
    public = Config(allowed_commands=("a",)).as_public_dict()
    assert list(public) == list(FIELDS)
    assert json.loads(json.dumps(public))["allowed_commands"] == ["a"]


def test_config_is_frozen():
    """Nobody changes a configuration that others hold."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Config().port = 1


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_explains_itself(key: str):
    """Every key has a meaning and says which values it may have."""
    assert rules(key).meaning
    assert not rules(key).meaning.endswith(".")
    assert allowed(key)


def test_words_for_what_is_allowed():
    """The values of a key are described by type, limits or choices."""
    assert allowed("port") == "an integer from 0 to 65535"
    assert allowed("resume_window") == "a number from 0 to 1000000000"
    assert allowed("debug") == "true or false"
    assert allowed("log_level") == "one of debug, info, warning, error, critical"
    assert allowed("allowed_commands") == "a list of strings, none empty"
    assert allowed("shell") == "a string, not empty"
    assert allowed("state_dir") == "a path"
