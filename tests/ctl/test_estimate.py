"""estimate: what is asked, and what people read of the answer."""

from pathlib import Path

TOLD = {
    "timeout": 540.0,
    "stall_timeout": 270.0,
    "based_on": "same command",
    "samples": 12,
    "confidence": 0.718,
    "multiplier": 3.0,
    "censored": 1,
    "median": 80.5,
    "quantile": 120.25,
    "acts": True,
    "category": "test",
    "program": "make test",
    "form": "make test -j",
    "load": 55.4,
    "reason": "12 runs of the same command in the same directory, 1 more were ended or failed",
}


def test_an_estimate_for_people(ctl, daemon):
    """How long, by what, how sure, and whether anything would come of it."""
    daemon.answers["estimate"] = TOLD
    said = ctl("estimate", "--", "make", "-j8", "test")
    assert said.code == 0
    assert said.out.splitlines() == [
        "timeout        9m00s",
        "stall timeout  4m30s",
        "based on       same command: 12 runs, 1 more not to their end; half within 1m20s, nearly all within 2m00s",
        "confidence     72 %",
        "load           55 %: times 3",
        "command        make test -j (test)",
        "acts           yes",
    ]
    assert daemon.asked("estimate") == [{"argv": ["make", "-j8", "test"], "cwd": str(Path.cwd())}]


def test_an_estimate_that_is_none(ctl, daemon):
    """It says why nothing is ended by it."""
    unknown = {"samples": 0, "censored": 0, "median": None, "quantile": None, "based_on": "nothing", "confidence": 0.0}
    daemon.answers["estimate"] = {**TOLD, **unknown, "multiplier": 1.0, "acts": False, "reason": "no runs to go by"}
    lines = ctl("estimate", "--shell", "make && x", "--cwd", "/w").out.splitlines()
    assert lines[2] == "based on       nothing: 0 runs"
    assert lines[4] == "load           55 %"
    assert lines[-1] == "acts           no: no runs to go by"
    assert daemon.asked("estimate") == [{"command": "make && x", "cwd": "/w"}]


def test_an_estimate_as_json(ctl, daemon):
    """As the daemon gave it."""
    daemon.answers["estimate"] = TOLD
    assert ctl("estimate", "--json", "--", "true").json == TOLD


def test_it_is_about_one_command(ctl):
    """None, or two, are wrong usage."""
    assert ctl("estimate").code == 2
    assert ctl("estimate", "--shell", "x", "--", "y").code == 2
