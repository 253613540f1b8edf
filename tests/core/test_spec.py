"""What one execution is to be."""

import attrs
import pytest

from ccexecd.core.spec import Limits, Spec


def test_a_spec_needs_no_more_than_its_words():
    """The defaults are the harmless ones: no shell, no time-out, closed input, whole lines."""
    spec = Spec(("ls", "-l"), "ls -l")
    assert attrs.asdict(spec) == {
        "argv": ("ls", "-l"),
        "display": "ls -l",
        "shell": False,
        "cwd": None,
        "env": {},
        "unset": (),
        "timeout": None,
        "timeout_source": "none",
        "stall_timeout": None,
        "max_line_bytes": None,
        "grace": 10.0,
        "framing": "lines",
        "policy": "drop_oldest",
        "stdin_open": False,
        "stdio": "auto",
        "pty": None,
        "on_disconnect": "auto",
        "labels": {},
        "leftovers": "kill",
        "stdbuf": False,
        "agent": "auto",
        "post_result_grace": None,
        "run_as": None,
        "lane": "",
        "priority": 0,
        "once": None,
        "limits": dict.fromkeys(["memory_bytes", "cpu_seconds", "processes", "open_files", "file_bytes", "nice"]),
    }


def test_limits_that_were_not_set_are_none_at_all():
    """What is asked of the keeper is what was asked of us, 0 included."""
    assert Limits().as_set() == {}
    assert Limits(file_bytes=0, nice=5).as_set() == {"file_bytes": 0, "nice": 5}


def test_a_spec_cannot_change():
    """It is fixed before the start, so that what runs is what was judged."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Spec(("ls",), "ls").argv = ("rm",)


def test_the_environment_is_not_shown():
    """Values may be secrets: a spec that is logged by mistake gives none away."""
    assert "hunter2" not in repr(Spec(("ls",), "ls", env={"PASSWORD": "hunter2"}))
