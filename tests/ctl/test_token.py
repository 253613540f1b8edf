"""`ccexecctl token`: what it asks the daemon, and that a text is printed once and goes nowhere else."""

import pytest

TEXT = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"
CI = {
    "name": "ci",
    "scopes": ["execute"],
    "created_at": "2026-01-02T03:04:05+00:00",
    "expires_at": "2036-01-02T03:04:05+00:00",
    "expired": False,
}


def test_show_prints_the_default_one(ctl, daemon):
    """Nothing but the text is on standard output, for `$(ccexecctl token show)`."""
    daemon.answers["token_show"] = {"token": TEXT}
    said = ctl("token", "show")
    assert (said.code, said.out, said.err) == (0, f"{TEXT}\n", "")
    assert ctl("token", "show", "--json").json == {"token": TEXT}


@pytest.mark.parametrize(("words", "name"), [([], "default"), (["ci"], "ci")])
def test_rotate_prints_the_new_text(ctl, daemon, words, name):
    """Of the default token, or of the one that is named."""
    daemon.answers["token_rotate"] = {"name": name, "token": TEXT}
    said = ctl("token", "rotate", *words)
    assert (said.code, said.out) == (0, f"{TEXT}\n")
    assert f"the token {name!r} has another text" in said.err
    assert TEXT not in said.err
    (asked,) = daemon.asked("token_rotate")
    assert asked == {"name": name}


def test_add_prints_the_text_once(ctl, daemon):
    """On standard output; the words about it go to standard error, without it."""
    daemon.answers["token_add"] = {**CI, "token": TEXT}
    said = ctl("token", "add", "--name", "ci", "--scope", "execute", "--expires", "90d")
    assert (said.code, said.out) == (0, f"{TEXT}\n")
    assert "the token 'ci' admits to execute until 2036" in said.err
    assert "not shown again" in said.err
    assert TEXT not in said.err
    (asked,) = daemon.asked("token_add")
    assert asked == {"name": "ci", "scopes": ["execute"], "lifetime": 90 * 86400.0}


def test_add_takes_several_scopes_and_no_expiry(ctl, daemon):
    """Each scope counts once; without --expires it is good for ever."""
    daemon.answers["token_add"] = {**CI, "expires_at": None, "scopes": ["observe", "execute"], "token": TEXT}
    said = ctl("token", "add", "--name", "ci", "--scope", "observe", "--scope", "execute", "--scope", "observe")
    assert "admits to observe, execute; it is not shown again" in said.err
    (asked,) = daemon.asked("token_add")
    assert asked == {"name": "ci", "scopes": ["observe", "execute"]}


@pytest.mark.parametrize(("text", "seconds"), [("45", 45), ("45s", 45), ("30m", 1800), ("12h", 43200), ("2w", 1209600)])
def test_durations(ctl, daemon, text, seconds):
    """A number of seconds, or with a unit."""
    daemon.answers["token_add"] = {**CI, "token": TEXT}
    assert ctl("token", "add", "--name", "ci", "--scope", "admin", "--expires", text).code == 0
    assert daemon.asked("token_add")[0]["lifetime"] == seconds


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("add",),
        ("add", "--name", "ci"),
        ("add", "--scope", "admin"),
        ("add", "--name", "ci", "--scope", "root"),
        *(
            ("add", "--name", "ci", "--scope", "admin", "--expires", text)
            for text in ("", "d", "0d", "-1d", "1y", "²d")
        ),
        ("revoke",),
        ("show", "ci"),
    ],
)
def test_wrong_usage(ctl, daemon, words):
    """What cannot be meant is exit 2, and the daemon is not asked."""
    assert ctl("token", *words).code == 2
    assert not [method for method in daemon.requests if method["method"].startswith("token")]


def test_list_is_a_table(ctl, daemon):
    """Names, scopes and times; what has expired says so."""
    default = {"name": "default", "scopes": ["admin"], "created_at": CI["created_at"], "expires_at": None}
    gone = {**CI, "name": "gone", "expires_at": "2026-02-02T03:04:05+00:00", "expired": True}
    daemon.answers["token_list"] = {"tokens": [{**default, "expired": False}, CI, gone]}
    lines = ctl("token", "list").out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["NAME", "SCOPES"],
        ["default", "admin"],
        ["ci", "execute"],
        ["gone", "execute"],
    ]
    assert lines[1].endswith(" -")
    assert [line.endswith("(expired)") for line in lines] == [False, False, False, True]
    assert ctl("token", "list", "--json").json["tokens"][1] == CI


def test_revoke(ctl, daemon, refusal):
    """Says what it has done; a name that is not there is the daemon's to refuse."""
    daemon.answers["token_revoke"] = {"name": "ci"}
    assert ctl("token", "revoke", "ci").out == "revoked ci\n"
    assert daemon.asked("token_revoke") == [{"name": "ci"}]
    problem = {"path": "$.name", "error": "there is no token 'nope'"}
    daemon.answers["token_revoke"] = refusal(-32602, "Invalid params: $.name: there is no token 'nope'", [problem])
    said = ctl("token", "revoke", "nope")
    assert said.code == 1
    assert said.err == "ccexecctl: name: there is no token 'nope'\n"


def test_who_may_not_change_them(ctl, daemon, refusal):
    """A member of a group that may only read gets exit 4 and the hint."""
    daemon.answers["token_list"] = refusal(-32110, "uid:1000 may not call token_list: it needs the scope 'admin'")
    said = ctl("token", "list")
    assert said.code == 4
    assert "the groups of its configuration" in said.err
