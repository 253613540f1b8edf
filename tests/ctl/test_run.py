"""run: output at once and byte for byte, the command's exit code, signals, and every way in which it can go wrong."""

import base64
import os
import signal
import subprocess
import time

import pytest

from ccexecctl import ending


def executing(*steps):
    """An `execute` that starts and then does these steps, each a function of the conversation."""

    def execute(conversation, request):
        conversation.reply(request, {"status": "started", "execution_id": "1f0c9b2e-full", "pid": 4711})
        for step in steps:
            step(conversation)

    return execute


def ended(exit_code=0, reason="exited", **more):
    return lambda conversation: conversation.completed(exit_code, reason, **more)


def wrote(data, stream="stdout", **more):
    return lambda conversation: conversation.output(data, stream, **more)


def test_output_goes_where_it_belongs(ctl, daemon):
    """stdout to stdout, stderr to stderr, nothing of our own."""
    daemon.answers["execute"] = executing(wrote("hello\n"), wrote("oops\n", "stderr"), wrote("bye\n"), ended())
    assert ctl("run", "--", "sh", "-c", "x") == (0, "hello\nbye\n", "oops\n")


def test_bytes_that_are_no_text_pass(daemon, ctl_process):
    """Output that is not UTF-8 comes as base64 and leaves as it was, and so does what looks like an escape sequence."""
    piece = bytes(range(256))
    daemon.answers["execute"] = executing(wrote(base64.b64encode(piece).decode(), encoding="base64"), ended())
    process = ctl_process("run", "--", "cat")
    assert process.communicate(timeout=20) == (piece, b"")


def test_a_line_is_shown_while_the_command_still_runs(daemon, ctl_process):
    """Every piece is passed on when it comes, not when the next one or the end does."""
    daemon.answers["execute"] = executing(wrote("tick"))
    process = ctl_process("run", "--", "x")
    assert os.read(process.stdout.fileno(), 100) == b"tick"
    assert process.poll() is None


def test_the_request_is_what_a_shell_would_do(ctl, daemon, monkeypatch, tmp_path):
    """argv as given, this directory, this environment: never on a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GREETING", "grüße")
    daemon.answers["execute"] = executing(ended())
    words = [
        "--timeout",
        "5",
        "--estimate",
        "--grace",
        "1",
        "--env",
        "A=b=c",
        "--env",
        "GREETING=x",
        "--label",
        "job=nightly",
    ]
    assert ctl("run", *words, "--", "ls", "--", "-l").code == 0
    (request,) = daemon.asked("execute")
    environ = request.pop("env")
    assert request == {
        "argv": ["ls", "--", "-l"],
        "cwd": str(tmp_path),
        "timeout": 5.0,
        "estimate_timeout": True,
        "grace": 1.0,
        "labels": {"job": "nightly"},
        "framing": "raw",
        "policy": "block",
        "on_disconnect": "cancel",
    }
    assert environ == {**os.environ, "A": "b=c", "GREETING": "x"}


def test_with_i_our_input_is_passed_on(daemon, ctl_process):
    """One request after the other, each when the one before has been taken, and then the end."""
    conversations = []
    daemon.answers["execute"] = executing(conversations.append)
    daemon.answers["write_stdin"] = {"accepted_bytes": 1}

    def close(conversation, request):
        conversation.reply(request, {})
        conversation.completed()

    daemon.answers["close_stdin"] = close
    process = ctl_process("run", "-i", "--", "cat", stdin=subprocess.PIPE)
    assert daemon.wait_for("execute")[0]["stdin"] == "open"
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert daemon.wait_for("write_stdin") == [{"execution_id": "1f0c9b2e-full", "data_base64": "b25lCg=="}]
    assert process.communicate(b"\xff", timeout=20) == (b"", b"")
    assert process.returncode == 0
    assert daemon.asked("write_stdin")[1:] == [{"execution_id": "1f0c9b2e-full", "data_base64": "/w=="}]
    assert len(daemon.asked("close_stdin")) == 1


def test_detached_an_input_is_left_open(ctl, daemon):
    """For whoever attaches; a terminal for that has the usual size where we have none."""
    daemon.answers["execute"] = executing()
    assert ctl("run", "--detach", "-i", "--", "cat").code == 0
    assert ctl("run", "--detach", "-t", "--", "bash").code == 0
    with_input, with_terminal = daemon.asked("execute")
    assert (with_input["stdin"], with_input.get("pty")) == ("open", None)
    assert with_terminal["pty"] == {"cols": 80, "rows": 24}


@pytest.mark.parametrize("words", [["-t"], ["-it"], ["-t", "--json"]])
def test_a_terminal_needs_a_terminal(daemon, ctl_process, words):
    """Exit 2 with what to do, before anything is started."""
    process = ctl_process("run", *words, "--", "bash")
    assert process.wait(timeout=20) == 2
    assert b"hint: leave" in process.stderr.read()
    assert daemon.requests == []


def test_a_shell_command_goes_as_one_string(ctl, daemon):
    """--shell leaves the words to the daemon's shell; --cwd may be relative; --no-env sends only what was set."""
    daemon.answers["execute"] = executing(ended())
    assert ctl("run", "--shell", "a | b", "--cwd", "sub", "--no-env", "--env", "A=1").code == 0
    (request,) = daemon.asked("execute")
    assert request["command"] == "a | b"
    assert "argv" not in request
    assert request["cwd"] == os.path.join(os.getcwd(), "sub")  # noqa: PTH109, PTH118
    assert request["env"] == {"A": "1"}


def test_variables_that_json_cannot_carry_are_named(ctl, daemon, monkeypatch):
    """A variable that is not UTF-8 stays behind, with a warning; the others go."""
    monkeypatch.setenv("BAD", "\udcff")
    daemon.answers["execute"] = executing(ended())
    said = ctl("run", "--", "true")
    assert said.code == 0
    assert "warning: not UTF-8, so not passed on: BAD" in said.err
    assert "BAD" not in daemon.asked("execute")[0]["env"]


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--"],
        ["run", "--shell", "a", "--", "b"],
        ["run", "--env", "A", "--", "b"],
        ["run", "--env", "=A", "--", "b"],
        ["run", "--timeout", "soon", "--", "b"],
        ["run", "--", "\udcff"],
        ["run", "--cwd", "\udcff", "--", "b"],
    ],
)
def test_wrong_usage_reaches_no_daemon(ctl, daemon, words):
    """No command, two commands, no NAME=VALUE, bytes that are no text: exit 2, and nothing was run."""
    assert ctl(*words).code == 2
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ((0, "exited"), 0),
        ((3, "exited"), 3),
        ((255, "exited"), 255),
        ((-9, "signaled"), 137),
        ((-15, "timeout"), 143),
        ((0, "timeout"), 1),
        ((None, "lost"), 1),
        ((0, "lost"), 1),
        ((0, "post_result"), 0),
        ((None, "spawn_failed"), 1),
        ((0, "a reason of tomorrow"), 1),
    ],
)
def test_the_exit_code_is_the_command_s(ctl, daemon, outcome, code):
    """128+N for signal N; never 0 for a command that did not end by itself."""
    daemon.answers["execute"] = executing(ended(*outcome))
    assert ctl("run", "--", "x").code == code


@pytest.mark.parametrize("reason", sorted(ending.EXPLANATIONS))
def test_an_ending_that_was_not_its_own_is_explained(ctl, daemon, reason):
    """Time-out, cancel, loss and the like are told on stderr."""
    daemon.answers["execute"] = executing(ended(-15, reason))
    assert ctl("run", "--", "x").err == f"ccexecctl: execution 1f0c9b2e was {ending.EXPLANATIONS[reason]}\n"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("rate_limited", "ccexecctl: execution 1f0c9b2e: rate limited. Wait until it is reset.\n"),
        ("success", ""),
        ("unverified", ""),
    ],
)
def test_an_agent_that_failed_is_told_with_what_to_do(ctl, daemon, cause, told):
    """Its exit code stays the command's own."""
    verdict = {"cause": cause, "is_success": cause == "success", "advice": "Wait until it is reset."}
    daemon.answers["execute"] = executing(ended(0, "exited", agent={"verdict": verdict}))
    said = ctl("run", "--", "claude")
    assert (said.code, said.err) == (0, told)


def test_what_was_left_behind_and_lost_is_told(ctl, daemon):
    """Stragglers that were ended, a shutdown under way, output that was dropped: that makes it a failure."""
    daemon.answers["execute"] = executing(
        lambda conversation: conversation.notify("process.gap", dropped_bytes=2048),
        lambda conversation: conversation.notify("process.gap", to_seq=3, dropped_bytes=None),
        lambda conversation: conversation.notify("server.draining", deadline=None),
        ended(0, "exited", leftovers=[17]),
    )
    said = ctl("run", "--", "x")
    assert said.code == 1  # a script that sees 0 has all of the output
    assert said.err.splitlines() == [
        "ccexecctl: output comes faster than it is read here: some of it is dropped",
        "ccexecctl: what it wrote before piece 4 is no longer kept",
        "ccexecctl: ccexecd is shutting down",
        "ccexecctl: execution 1f0c9b2e wrote 2.0 KiB that are missing here",
        "ccexecctl: execution 1f0c9b2e left processes behind, which were ended: [17]",
    ]


def test_waiting_for_a_turn_is_told(ctl, daemon):
    """On stderr, as often as the daemon says so; the lane and the priority are the request's."""
    daemon.answers["execute"] = executing(
        lambda conversation: conversation.notify("process.queued", status="queued", queue_position=2),
        lambda conversation: conversation.notify("process.queued", status="queued", queue_position=1),
        wrote("done\n"),
        ended(),
    )
    said = ctl("run", "--lane", "builds", "--priority", "-5", "--key", "k", "--", "x")
    assert (said.code, said.out) == (0, "done\n")
    assert said.err.splitlines() == [
        "ccexecctl: waits for its turn: position 2",
        "ccexecctl: waits for its turn: position 1",
    ]
    assert (daemon.asked("execute")[0]["lane"], daemon.asked("execute")[0]["priority"]) == ("builds", -5)
    assert daemon.asked("execute")[0]["idempotency_key"] == "k"


def test_limits_are_asked_for(ctl, daemon):
    """Sizes in the units that people use; what went beyond is told by name."""
    daemon.answers["execute"] = executing(ended(-9, "limit", limit="memory_bytes"))
    words = ["memory_bytes=1.5G", "cpu_seconds=0.5", "file_bytes=10MiB", "open_files=64", "nice=5", "processes=9"]
    said = ctl("run", *(each for word in words for each in ("--limit", word)), "--", "x")
    assert said.code == 137
    assert said.err == "ccexecctl: execution 1f0c9b2e was ended by a limit on its resources (memory_bytes)\n"
    assert daemon.asked("execute")[0]["limits"] == {
        "memory_bytes": 1610612736, "cpu_seconds": 0.5, "file_bytes": 10485760, "open_files": 64, "nice": 5,
        "processes": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("memory=1G", "there is no limit 'memory', only memory_bytes"),
        ("nice", "'nice' is not NAME=VALUE"),
        ("memory_bytes=much", "'much' is not a number such as 100, 1.5 or 512M"),
        ("memory_bytes=nan", "'nan' is not a number"),
        ("memory_bytes=G", "'G' is not a number"),
    ],
)
def test_a_limit_that_is_none_is_wrong_usage(ctl, daemon, word, complaint):
    """Before anything is asked for."""
    said = ctl("run", "--limit", word, "--", "x")
    assert said.code == 2
    assert complaint in said.err
    assert not daemon.asked("execute")


def test_stdbuf_is_asked_for(ctl, daemon):
    """Only where it is wanted."""
    daemon.answers["execute"] = executing(ended(0, "exited"))
    ctl("run", "--stdbuf", "--", "x")
    ctl("run", "--", "x")
    assert [request.get("stdbuf") for request in daemon.asked("execute")] == [True, None]


def test_what_was_left_running_is_told(ctl, daemon):
    """Whoever asked for it learns what he has to look after now, and it is no failure."""
    daemon.answers["execute"] = executing(ended(0, "exited", leftovers=[17, 18], left_running=True))
    said = ctl("run", "--leftovers", "detach", "--", "x")
    assert (said.code, said.err) == (0, "ccexecctl: execution 1f0c9b2e left processes running: [17, 18]\n")
    assert daemon.asked("execute")[0]["leftovers"] == "detach"


@pytest.mark.parametrize(
    ("subject", "errno", "code", "reason"),
    [
        ("program", 2, 127, "cannot run ./x: no such file or directory"),
        ("program", 13, 126, "cannot run ./x: permission denied"),
        ("program", 8, 126, "cannot run ./x: exec format error"),
        ("cwd", 2, 1, "cannot run in /nowhere: no such file or directory"),
        ("keeper", 0, 1, "could not start"),
    ],
)
def test_what_cannot_be_started_exits_like_a_shell(ctl, daemon, refusal, subject, errno, code, reason):
    """127 not found, 126 not executable, 1 when it was not the program's fault; with the reason."""
    data = {"errno": errno, "strerror": os.strerror(errno), "subject": subject}
    daemon.answers["execute"] = refusal(-32006, "could not start", data)
    said = ctl("run", "--json", "--cwd", "/nowhere", "--", "./x")
    assert said.code == code
    assert said.json["error"]["exit_code"] == code
    assert said.err == f"ccexecctl: {reason}\n"


def test_a_hook_s_refusal_is_no_matter_of_the_policy(ctl, daemon, refusal):
    """What to do about it is asked of the hooks."""
    daemon.answers["execute"] = refusal(-32002, "hook 'dependencies' refuses it: not installed: node")
    said = ctl("run", "--", "ls")
    assert "ccexecctl hooks test -- COMMAND" in said.plain
    assert "policy" not in said.plain


@pytest.mark.parametrize(
    ("code", "name", "hint"),
    [
        (-32010, "DRAINING", "once it has stopped: ccexecctl start"),
        (-32002, "COMMAND_NOT_ALLOWED", "ccexecctl policy test"),
        (-32602, "INVALID_PARAMS", ""),
    ],
)
def test_a_refusal_is_told(ctl, daemon, refusal, code, name, hint):
    """What the daemon will not run: exit 1 with its reason, every problem, and what to do."""
    daemon.answers["execute"] = refusal(code, "no", [{"path": "$.argv", "error": "must not be empty"}])
    said = ctl("run", "--json", "--", "x")
    assert said.code == 1
    assert said.json["error"]["name"] == name
    assert "argv: must not be empty" in said.err
    assert hint in said.plain


def test_an_environment_that_is_refused_can_be_left_out(ctl, daemon, refusal):
    """Under an allow-list, a name that the daemon has otherwise is refused; what to do is said."""
    daemon.answers["execute"] = refusal(-32002, "environment name PATH could …", {"environment": ["PATH"]})
    said = ctl("run", "--", "x")
    assert said.code == 1
    assert "ccexecctl run --no-env" in said.plain


def test_a_daemon_that_dies_in_the_middle_is_a_failure(ctl, daemon):
    """Never the exit code of a command whose end nobody saw."""
    daemon.answers["execute"] = executing(wrote("a"), lambda conversation: conversation.close())
    said = ctl("run", "--", "x")
    assert said.code == 1
    assert said.out == "a"
    assert "lost the connection to ccexecd" in said.err
    assert "while execution 1f0c9b2e was running" in said.err


def test_json_collects_the_output(ctl, daemon):
    """--json: one object at the end, with what the command wrote and how it ended."""
    daemon.answers["execute"] = executing(
        wrote("a"), wrote("b", "stderr"), wrote("/w==", encoding="base64"), ended(3, duration=0.5)
    )
    said = ctl("run", "--json", "--", "x")
    assert said.code == 3
    assert said.json["stdout"] == "a\ufffd"
    assert said.json["stderr"] == "b"
    assert {key: said.json[key] for key in ("execution_id", "pid", "exit_code", "reason", "duration")} == {
        "execution_id": "e1",
        "pid": 4711,
        "exit_code": 3,
        "reason": "exited",
        "duration": 0.5,
    }


def test_detached_it_prints_the_id(ctl, daemon):
    """--detach returns when it has started, and lets it outlive the connection."""
    daemon.answers["execute"] = executing()
    assert ctl("run", "--detach", "--", "x") == (0, "1f0c9b2e-full\n", "")
    assert daemon.asked("execute")[0]["on_disconnect"] == "detach"
    assert ctl("run", "--detach", "--json", "--", "x").json["pid"] == 4711


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_cancels_the_second_kills(daemon, ctl_process, number):
    """We stay until the daemon says that it is over, and exit as the command did."""
    conversations = []
    daemon.answers["execute"] = executing(conversations.append)
    daemon.answers["control"] = lambda *_: None
    process = ctl_process("run", "--", "x")
    daemon.wait_for("execute")
    wait_until(lambda: conversations)
    conversations[0].output("ready\n")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert daemon.wait_for("control")[0] == {"type": "CANCEL", "execution_id": "1f0c9b2e-full"}
    process.send_signal(number)
    assert daemon.wait_for("control", 2)[1]["type"] == "KILL"
    conversations[0].output("last words\n")
    conversations[0].completed(-9, "cancelled")
    assert process.communicate(timeout=20) == (b"last words\n", b"ccexecctl: execution 1f0c9b2e was cancelled\n")
    assert process.returncode == 137


def test_the_third_signal_leaves(daemon, ctl_process):
    """A daemon that has stopped answering does not hold us."""
    daemon.answers["execute"] = executing(wrote("ready\n"))
    daemon.answers["control"] = lambda *_: None
    process = ctl_process("run", "--", "x")
    assert process.stdout.readline() == b"ready\n"
    for times in (1, 2):
        process.send_signal(signal.SIGINT)
        daemon.wait_for("control", times)
    process.send_signal(signal.SIGINT)
    assert b"did not wait for the end of execution 1f0c9b2e" in process.communicate(timeout=20)[1]
    assert process.returncode == 130


def test_a_signal_before_the_start_is_not_lost(daemon, ctl_process):
    """Ctrl-C while the daemon is still spawning cancels as soon as there is something to cancel."""
    requests = []
    daemon.answers["execute"] = lambda *both: requests.append(both)

    def cancelled(conversation, request):
        conversation.completed(-15, "cancelled")

    daemon.answers["control"] = cancelled
    process = ctl_process("run", "--", "x")
    wait_until(lambda: requests)
    process.send_signal(signal.SIGINT)
    conversation, request = requests[0]
    executing()(conversation, request)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert len(daemon.asked("control")) == 1


def test_a_signal_is_heard_while_output_is_stuck(daemon, ctl_process):
    """A reader that has stopped reading does not keep Ctrl-C from the daemon."""
    daemon.answers["execute"] = executing(wrote("x" * 1_000_000))
    daemon.answers["control"] = lambda *_: None
    process = ctl_process("run", "--", "x")
    assert os.read(process.stdout.fileno(), 1) == b"x"  # it is writing, more than the pipe can take
    process.send_signal(signal.SIGTERM)
    assert daemon.wait_for("control")[0]["type"] == "CANCEL"


def test_a_reader_that_leaves_cancels_quietly(daemon, ctl_process):
    """`ccexecctl run ... | head -1`: the command is cancelled, and we exit as a program would by SIGPIPE."""

    def cancelled(conversation, request):
        conversation.output("more\n")
        conversation.completed(-15, "cancelled")

    conversations = []
    daemon.answers["execute"] = executing(wrote("first\n"), conversations.append)
    daemon.answers["control"] = cancelled
    process = ctl_process("run", "--", "x")
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    wait_until(lambda: conversations)
    conversations[0].output("second\n")
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""
    assert [params["type"] for params in daemon.asked("control")] == ["CANCEL"]


def test_a_non_blocking_stdout_loses_nothing(daemon, ctl_process):
    """Some parents share their non-blocking pipe with us: every byte arrives all the same."""
    daemon.answers["execute"] = executing(wrote("x" * 1_000_000), ended())
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = ctl_process("run", "--", "x", stdout=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert len(pipe.read()) == 1_000_000
    assert process.wait(timeout=20) == 0


def test_without_a_stdout_nothing_goes_astray(daemon, ctl_process):
    """Started with stdout closed, output goes nowhere; above all not into the control socket."""
    daemon.answers["execute"] = executing(wrote("hello\n"), wrote("oops\n", "stderr"), ended(3))
    process = ctl_process("run", "--", "x", stdout=None, preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=20)[1] == b"oops\n"
    assert process.returncode == 3


def test_an_ignored_signal_stays_ignored(daemon, ctl_process):
    """A background job of a script does not hear the Ctrl-C of the foreground."""
    conversations = []
    daemon.answers["execute"] = executing(wrote("ready\n"), conversations.append)
    process = ctl_process(
        "run", "--", "x", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), start_new_session=True
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    wait_until(lambda: conversations)
    conversations[0].completed(0)
    assert process.wait(timeout=20) == 0
    assert daemon.asked("control") == []


def test_a_named_socket_starts_no_daemon(ctl, tmp_path):
    """Who names a socket means that daemon: when it is not there, nothing else is started."""
    said = ctl("--socket", str(tmp_path / "x.sock"), "run", "--", "true")
    assert said.code == 3


def wait_until(condition):
    """Wait for what a thread of the scripted daemon is about to do."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_no_colour_in_any_case(daemon, ctl_process):
    """Our own words have no escape sequences: not in a pipe, and not on a terminal either, with NO_COLOR or without."""
    daemon.answers["execute"] = executing(ended(-15, "timeout"))
    outer, inner = os.openpty()
    process = ctl_process("run", "--", "x", stdout=inner, stderr=inner, env=dict(os.environ, TERM="xterm-256color"))
    assert process.wait(timeout=20) == 143
    os.close(inner)
    assert b"\x1b" not in os.read(outer, 10_000)
    os.close(outer)
    piped = ctl_process("run", "--", "x", env=dict(os.environ, NO_COLOR="1"))
    assert b"\x1b" not in b"".join(piped.communicate(timeout=20))
