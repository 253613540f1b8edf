"""attach: what is asked of the daemon, what is shown, and the exit code; with keys, see tests/e2e/test_terminal.py."""

import subprocess

import pytest

KNOWN = {"execution_id": "1f0c9b2e-full", "state": "RUNNING", "pty": None, "stdin": "closed"}

RUNNING = {"state": "RUNNING", "next_seq": 5, "oldest_seq": 1}


def attached(*steps, **answer):
    """An `attach` that is answered and then does these steps, each a function of the conversation."""

    def attach(conversation, request):
        conversation.reply(request, {**RUNNING, **answer})
        for step in steps:
            step(conversation)

    return attach


def ended(exit_code=0, reason="exited", **more):
    return lambda conversation: conversation.completed(exit_code, reason, **more)


def wrote(data, stream="stdout", **more):
    return lambda conversation: conversation.output(data, stream, **more)


@pytest.fixture
def execution(daemon):
    """A daemon that knows one, which nobody types on."""
    daemon.answers["status"] = dict(KNOWN)
    return daemon


def test_its_output_and_its_exit_code_are_ours(ctl, execution):
    """Where we have no terminal, it is followed to its end; the id may be a beginning."""
    execution.answers["attach"] = attached(wrote("a\n"), wrote("b\n", "stderr"), ended(3))
    assert ctl("attach", "1f0c") == (3, "a\n", "b\n")
    assert execution.asked("status") == [{"execution_id": "1f0c"}]
    assert execution.asked("attach") == [{"execution_id": "1f0c9b2e-full"}]


def test_from_where_it_begins(ctl, execution):
    """From now on, or from a number."""
    execution.answers["attach"] = attached(ended())
    assert ctl("attach", "1f0c", "--since-seq", "0").code == 0
    assert ctl("attach", "1f0c", "--since-seq", "17").code == 0
    assert [asked["from_seq"] for asked in execution.asked("attach")] == [0, 17]


def test_what_is_no_longer_kept_is_told(ctl, execution, refusal):
    """From the oldest piece instead, with a word about it, and that is no failure."""

    def attach(conversation, request):
        if request["params"]["from_seq"]:
            conversation.send({"id": request["id"], "error": refusal(-32007, "gone", {"oldest_seq": 4})._asdict()})
            return
        conversation.reply(request, RUNNING)
        conversation.notify("process.gap", from_seq=1, to_seq=3, dropped_bytes=None, dropped_lines=None)
        conversation.output("rest")
        conversation.completed()

    execution.answers["attach"] = attach
    said = ctl("attach", "1f0c", "--since-seq", "2")
    assert said == (0, "rest", "ccexecctl: what it wrote before piece 4 is no longer kept\n")


def test_what_comes_too_fast_is_a_failure(ctl, execution):
    """As for `run`: 0 says that all of it has been shown."""
    gap = {"from_seq": 5, "to_seq": 8, "dropped_bytes": 2048, "dropped_lines": 3}
    execution.answers["attach"] = attached(lambda conversation: conversation.notify("process.gap", **gap), ended())
    said = ctl("attach", "1f0c")
    assert said.code == 1
    assert "wrote 2.0 KiB that are missing here" in said.err


@pytest.mark.parametrize("since", [[], ["--since-seq", "9"]])
def test_of_what_has_ended_nothing_comes(ctl, execution, since):
    """The exit code is asked for instead of waited for."""
    execution.answers["status"] = {**KNOWN, "state": "FINISHED"}
    execution.answers["attach"] = attached(state="FINISHED", next_seq=9)
    execution.answers["wait"] = {"exit_code": -15, "reason": "timeout"}
    said = ctl("attach", "1f0c", *since)
    assert said == (143, "", "ccexecctl: execution 1f0c9b2e was ended by its time-out\n")


def test_json_collects_the_output(ctl, execution):
    """--json: one object at the end, as `run` prints it."""
    execution.answers["attach"] = attached(wrote("a"), wrote("b", "stderr"), ended(3))
    said = ctl("attach", "--json", "1f0c")
    assert said.code == 3
    assert {name: said.json[name] for name in ("stdout", "stderr", "exit_code")} == {
        "stdout": "a",
        "stderr": "b",
        "exit_code": 3,
    }


def test_nothing_is_typed_that_is_not_a_terminal(execution, ctl_process):
    """What is piped into us is no person's: who wants to feed a program says so to `run`."""
    execution.answers["status"] = {**KNOWN, "stdin": "open"}
    execution.answers["attach"] = attached(ended())
    process = ctl_process("attach", "1f0c", stdin=subprocess.PIPE)
    assert process.communicate(b"some", timeout=20) == (b"", b"")
    assert execution.asked("write_stdin") == execution.asked("close_stdin") == []


def test_an_unknown_execution_is_told(ctl, execution, refusal):
    """As every verb tells it."""
    execution.answers["status"] = refusal(-32003, "no execution 'x'")
    said = ctl("attach", "x")
    assert said.code == 1
    assert "ps --all" in said.err


def test_a_reader_that_goes_ends_us_and_not_the_execution(execution, ctl_process):
    """`ccexecctl attach ID | head`: nothing failed, and nothing is cancelled."""
    execution.answers["attach"] = attached(wrote("a\n"), wrote("b\n" * 100_000))
    process = ctl_process("attach", "1f0c")
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert execution.asked("control") == []
