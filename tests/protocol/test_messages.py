"""The params of every method: what is taken, what it means when left out, and every rule with its words."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.protocol import messages
from ccexecd.protocol.codec import UNSAID, StructureError
from ccexecd.protocol.messages import MAX_LABELS, MAX_READ, params

CLASSES = [each for each in vars(messages).values() if isinstance(each, type) and attrs.has(each)]

MINIMAL = {
    "Execute": {"command": "ls"},
    "Estimate": {"command": "ls"},
    "Control": {"type": "PAUSE"},
    "WriteStdin": {"data": ""},
    "Attach": {"execution_id": "e"},
    "ReadOutput": {"execution_id": "e"},
    "Wait": {"execution_id": "e"},
    "Verify": {"execution_id": "e"},
    "PromptsShow": {"name": "n"},
    "PromptsRecord": {"name": "n", "text": "t", "why": "w"},
    "Held": {"execution_id": "e"},
    "TerminalSize": {"cols": 80, "rows": 24},
    "ResizePty": {"cols": 80, "rows": 24},
    "ResumeSession": {"session_id": "s", "resume_token": "t"},
    "TokenAdd": {"name": "ci", "scopes": ["observe"]},
    "TokenRevoke": {"name": "ci"},
    "HookTest": {"command": "ls"},
    "HookRun": {"name": "venv"},
}
"""The least that a class takes; those that are not here take nothing at all."""


def faults(value: object, cls: type, **options: bool) -> list[tuple[str, str]]:
    """Path and error of each problem of params that are refused."""
    with pytest.raises(StructureError) as caught:
        params(value, cls, **options)
    return [(problem["path"], problem["error"]) for problem in caught.value.problems]


def test_defaults_are_those_of_the_contract():
    """What a client leaves out means this."""
    defaults = {cls.__name__: attrs.asdict(params(MINIMAL.get(cls.__name__, {}), cls)) for cls in CLASSES}
    assert defaults == {
        "Execute": {
            "command": "ls",
            "argv": None,
            "timeout": UNSAID,
            "estimate_timeout": None,
            "grace": None,
            "cwd": None,
            "env": {},
            "unset": (),
            "stdin": "closed",
            "on_disconnect": "auto",
            "framing": None,
            "labels": {},
            "leftovers": None,
            "stdbuf": False,
            "agent": "auto",
            "post_result_grace": None,
            "stall_timeout": None,
            "pty": None,
            "limits": None,
            "policy": "drop_oldest",
            "stdio": None,
            "max_line_bytes": None,
            "idempotency_key": None,
            "lane": None,
            "priority": None,
        },
        "Limits": dict.fromkeys(["memory_bytes", "cpu_seconds", "processes", "open_files", "file_bytes", "nice"]),
        "TerminalSize": {"cols": 80, "rows": 24},
        "ResizePty": {"execution_id": None, "cols": 80, "rows": 24},
        "Estimate": {"command": "ls", "argv": None, "cwd": None},
        "History": {
            **dict.fromkeys(["category", "program", "reason", "since", "before"]),
            "limit": 100,
        },
        "Stats": {"by": "program", "category": None, "since": None},
        "HookTest": {
            "command": "ls",
            "argv": None,
            "cwd": None,
            "lane": None,
            "labels": {},
            "principal": None,
        },
        "HookRun": {"name": "venv", "event": None, "argv": ("true",), "cwd": None, "lane": None, "labels": {}},
        "Control": {"type": "PAUSE", "execution_id": None, "signal": None, "grace": None, "wait": True},
        "WriteStdin": {"execution_id": None, "data": "", "data_base64": None, "write_id": None},
        "Which": {"execution_id": None},
        "Attach": {"execution_id": "e", "from_seq": None},
        "ReadOutput": {
            "execution_id": "e",
            "from_seq": 0,
            "max_bytes": 1048576,
            "wait_s": 0.0,
            "streams": ("stdout", "stderr"),
        },
        "Wait": {"execution_id": "e", "timeout": None},
        "Verify": {"execution_id": "e", "expect_uuid": None},
        "Receipt": {"execution_id": None},
        "PromptsShow": {"name": "n", "version": None},
        "PromptsRecord": {"name": "n", "text": "t", "why": "w", "kind": "prompt"},
        "Held": {"execution_id": "e", "all": False},
        "Status": {"execution_id": None},
        "List": {
            "state": None,
            "label": None,
            "session": None,
            "limit": 1000,
            "resources": False,
            "tree": False,
        },
        "ResumeSession": {"session_id": "s", "resume_token": "t"},
        "Stop": {"drain": None, "grace": None},
        "TokenAdd": {"name": "ci", "scopes": ("observe",), "lifetime": None},
        "TokenRotate": {"name": "default"},
        "TokenRevoke": {"name": "ci"},
        "Policy": {"argv": None, "command": None, "cwd": None, "env": (), "principal": None},
        "Nothing": {},
    }


@pytest.mark.parametrize("name", MINIMAL)
def test_what_has_no_default_is_required(name):
    """Without what a method cannot do without, the answer says what that is."""
    cls = getattr(messages, name)
    found = faults({}, cls)
    required = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    if required:
        assert found == [(f"$.{field}", "required") for field in required]
    else:
        assert found[0][1].startswith("exactly one of ")


@pytest.mark.parametrize("cls", CLASSES)
def test_absent_params_are_empty_ones(cls):
    """Params that are left out or null are an object without members."""
    if cls.__name__ in MINIMAL:
        assert faults(None, cls) == faults({}, cls)
    else:
        assert params(None, cls) == params({}, cls) == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_params_are_named(cls):
    """A position means nothing in any method."""
    assert faults([], cls) == faults(["ls"], cls) == [("$", "params are named: expected object, got array")]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_param_is_refused_or_passed_over(cls):
    """Refused for clients of this protocol, passed over for those of the earlier one."""
    given_ = {**MINIMAL.get(cls.__name__, {}), "timeoutt": 5}
    [(path, error)] = faults(given_, cls)
    assert (path, error.partition(";")[0]) == ("$", "unknown field: timeoutt")
    assert params(given_, cls, lenient=True) == params(MINIMAL.get(cls.__name__), cls)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"idempotency_key": ""}, "$.idempotency_key"),
        ({"idempotency_key": "k" * 1025}, "$.idempotency_key"),
        ({"idempotency_key": 1}, "$.idempotency_key"),
        ({"lane": ["a"]}, "$.lane"),
        ({"priority": 1001}, "$.priority"),
        ({"priority": -1001}, "$.priority"),
        ({"priority": 1.5}, "$.priority"),
        ({"priority": True}, "$.priority"),
        ({"priority": "high"}, "$.priority"),
    ],
)
def test_what_says_when_it_begins_has_bounds(wrong, path):
    """A key that can be kept, a lane's name, a whole number from -1000 to 1000."""
    assert [fault[0] for fault in faults({"command": "ls", **wrong}, messages.Execute)] == [path]
    params({"command": "ls", "idempotency_key": "k", "lane": "a", "priority": -1000}, messages.Execute)


EXECUTE_RULES = [
    ({}, "$", "exactly one of command and argv is required"),
    ({"command": "ls", "argv": ["ls"]}, "$", "exactly one of command and argv is required"),
    ({"command": ""}, "$.command", "must not be empty"),
    ({"command": " \t\n"}, "$.command", "must not be empty"),
    ({"argv": []}, "$.argv", "must not be empty, nor its first word"),
    ({"argv": ["", "x"]}, "$.argv", "must not be empty, nor its first word"),
    ({"argv": ["ls"], "env": {"": "x"}}, "$.env", 'a name must not be empty nor hold "="'),
    ({"argv": ["ls"], "env": {"A=B": "x"}}, "$.env", 'a name must not be empty nor hold "="'),
    (
        {"argv": ["ls"], "labels": {str(number): "" for number in range(MAX_LABELS + 1)}},
        "$.labels",
        "must not be more than 64",
    ),
    ({"argv": ["ls", "a\0b"]}, "$.argv[1]", "string holds a NUL at character 2, which no program can be given"),
    ({"argv": "ls -l"}, "$.argv", "expected array, got string"),
    ({"command": ["ls"]}, "$.command", "expected string, got array"),
    ({"command": "ls", "timeout": -1}, "$.timeout", "must not be negative"),
    ({"command": "ls", "timeout": "5"}, "$.timeout", "expected number, got string"),
    ({"command": "ls", "stdin": True}, "$.stdin", 'expected one of "closed", "open"'),
    ({"command": "ls", "framing": "words"}, "$.framing", 'expected one of "lines", "line", "raw"'),
    ({"command": "ls", "policy": "drop"}, "$.policy", 'expected one of "drop_oldest", "block"'),
    ({"command": "ls", "on_disconnect": None}, "$.on_disconnect", 'expected one of "auto", "cancel", "detach"'),
    ({"command": "ls", "env": {"A": None}}, "$.env['A']", "expected string, got null"),
]


@pytest.mark.parametrize(("given_", "path", "error"), EXECUTE_RULES)
def test_the_rules_of_execute(given_, path, error):
    """Each rule, its path and its words."""
    assert faults(given_, messages.Execute) == [(path, error)]


@pytest.mark.parametrize("cls", [messages.Estimate, messages.HookTest])
@pytest.mark.parametrize(("given_", "path", "error"), EXECUTE_RULES[:6])
def test_a_command_that_is_asked_about_is_one_that_could_be_executed(cls, given_, path, error):
    """What `execute` refuses as no command, a method that only asks about one refuses in the same words."""
    assert faults(given_, cls) == [(path, error)]


@pytest.mark.parametrize("size", [0, 3])
def test_a_line_is_shown_in_whole_code_points(size):
    """A bound of a line that could not hold every code point is refused, and so is 0."""
    assert faults({"command": "ls", "max_line_bytes": size}, messages.Execute) == [
        ("$.max_line_bytes", "must be 4 at least")
    ]


def test_execute_takes_everything_that_is_served():
    """Each param with a value of its own arrives as it was sent."""
    given_ = {
        "argv": ["ls", "", "-l"],
        "timeout": 5,
        "stall_timeout": 2.5,
        "policy": "block",
        "grace": 0,
        "cwd": "/tmp",
        "env": {"A": "", "B": "="},
        "unset": ["C"],
        "stdin": "open",
        "on_disconnect": "detach",
        "framing": "raw",
        "labels": {"a": "b"},
        "leftovers": "detach",
        "agent": "claude",
        "stdbuf": True,
        "post_result_grace": 0.5,
        "pty": {"cols": 1, "rows": 65535},
    }
    taken = attrs.asdict(params(given_, messages.Execute))
    assert {name: list(taken[name]) if isinstance(taken[name], tuple) else taken[name] for name in given_} == given_


@pytest.mark.parametrize(
    ("size", "path", "error"),
    [
        ({"cols": 0, "rows": 24}, "$.pty.cols", "must be from 1 to 65535"),
        ({"cols": 80, "rows": 65536}, "$.pty.rows", "must be from 1 to 65535"),
        ({"cols": 80.0, "rows": 24}, "$.pty.cols", "expected integer, got number"),
        ({"cols": True, "rows": 24}, "$.pty.cols", "expected integer, got boolean"),
        ({"cols": 80}, "$.pty.rows", "required"),
        ([80, 24], "$.pty", "expected object, got array"),
        (True, "$.pty", "expected object, got boolean"),
        ({"cols": 80, "rows": 24, "depth": 1}, "$.pty", "unknown field: depth; known: cols, rows"),
    ],
)
def test_the_size_of_a_terminal(size, path, error):
    """What the kernel can keep, and nothing that would have to be guessed."""
    assert faults({"command": "ls", "pty": size}, messages.Execute) == [(path, error)]
    if isinstance(size, dict) and "depth" not in size:
        assert faults(size, messages.ResizePty) == [(path.replace(".pty", ""), error)]


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ({"type": "SIGNAL"}, "$.signal"),
        ({"type": "PAUSE", "signal": "INT"}, "$.signal"),
    ],
)
def test_a_signal_belongs_to_signal(given_, path):
    """`signal` is given exactly where it means something."""
    assert faults(given_, messages.Control) == [(path, "belongs to type SIGNAL, which needs it")]


@pytest.mark.parametrize("kind", ["PAUSE", "RESUME", "CANCEL", "KILL"])
def test_every_control_needs_no_more_than_its_type(kind):
    """The execution may be left out where it is the only one."""
    assert params({"type": kind}, messages.Control).type == kind


def test_a_signal_is_sent_by_name():
    """The one type that needs a second param."""
    assert params({"type": "SIGNAL", "signal": "INT"}, messages.Control).signal == "INT"


@pytest.mark.parametrize("kind", ["pause", "STOP", "", None, 1])
def test_another_control_is_refused(kind):
    """The answer lists the types that there are."""
    expected = 'expected one of "PAUSE", "RESUME", "CANCEL", "KILL", "SIGNAL"'
    assert faults({"type": kind}, messages.Control) == [("$.type", expected)]


@pytest.mark.parametrize("given_", [{}, {"data": "a", "data_base64": "YQ=="}])
def test_input_comes_in_one_form(given_):
    """Text or base64: neither both nor none."""
    expected = "exactly one of data and data_base64 is required"
    assert faults(given_, messages.WriteStdin) == [("$", expected)]


@pytest.mark.parametrize("size", [0, MAX_READ + 1])
def test_a_read_is_bounded(size):
    """Neither nothing nor more than an answer may hold can be asked for."""
    given_ = {"execution_id": "e", "max_bytes": size}
    assert faults(given_, messages.ReadOutput) == [("$.max_bytes", "must be from 1 to 16777216")]


@pytest.mark.parametrize("size", [1, MAX_READ])
def test_the_bounds_of_a_read_are_inclusive(size):
    """Both ends are allowed."""
    assert params({"execution_id": "e", "max_bytes": size}, messages.ReadOutput).max_bytes == size


@pytest.mark.parametrize("state", ["QUEUED", "STARTING", "RUNNING", "PAUSED", "TERMINATING", "FINISHED", "live", None])
def test_a_list_is_filtered_by_any_state(state):
    """Every state of the contract, and `live` for all but the last."""
    assert params({"state": state}, messages.List).state == state


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in attrs.fields(messages.Execute)]),
        st.none()
        | st.integers()
        | st.text(max_size=3)
        | st.lists(st.text(max_size=3))
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_execute_is_taken_or_refused(given_):
    """Any params become what was asked for or a list of problems: no other exception, no half of it."""
    try:
        taken = params(given_, messages.Execute)
    except StructureError as caught:
        error = caught
    else:
        assert (taken.command is None) != (taken.argv is None)
        return
    assert all(problem["path"].startswith("$") and problem["error"] for problem in error.problems)


@pytest.mark.parametrize(
    "secret",
    [
        messages.Execute(command="ls", env={"PASSWORD": "hunter2"}),
        messages.WriteStdin(data="hunter2"),
        messages.WriteStdin(data_base64="hunter2"),
        messages.ResumeSession("s", "hunter2"),
    ],
)
def test_secrets_are_not_shown(secret):
    """Params that are logged by mistake give away no environment, no input and no token."""
    assert "hunter2" not in repr(secret)


def test_labels_fit_into_a_frame():
    """A label that is too long is refused by its path: status could not tell it in one frame."""
    with pytest.raises(StructureError) as refused:
        messages.params({"command": "true", "labels": {"job": "x" * (messages.MAX_LABEL + 1)}}, messages.Execute)
    assert refused.value.problems[0]["path"] == "$.labels"
    assert messages.params({"command": "true", "labels": {"job": "x" * messages.MAX_LABEL}}, messages.Execute)


def test_a_list_has_a_bound():
    """One that no reply could hold is refused, with the bound."""
    assert params({"limit": 10_000}, messages.List).limit == 10_000
    with pytest.raises(StructureError, match=r"\$.limit: must be at most 10000"):
        params({"limit": 10_001}, messages.List)
