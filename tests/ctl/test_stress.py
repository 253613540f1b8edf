"""stress: the self-test passes against a daemon that works, and finds what does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccexecctl.stress.agents import Claude, StandIn
from ccexecctl.stress.cases import CASES, CATEGORIES
from ccexecctl.stress.report import markdown
from ccexecctl.stress.trial import CaseFailedError, Run

PROGRAM = [sys.executable, "-m", "ccexecctl"]
STATUS = {"pid": 1, "version": "0", "memory_bytes": 1, "problems": {}}


@pytest.fixture
def place(tmp_path: Path):
    """A daemon of its own, started as people do."""
    ctl = [*PROGRAM, "--state-dir", str(tmp_path / "d")]
    subprocess.run([*ctl, "start", "--port", "0"], check=True, capture_output=True, timeout=60)
    yield ctl
    subprocess.run([*ctl, "stop", "--grace", "0"], check=True, capture_output=True, timeout=60)


def test_every_case_passes(place, tmp_path):
    """Against a real daemon, with the stand-in: exit 0, and a report in both forms that says so."""
    words = ["stress", "--json", "--parallel", "3", "--report", str(tmp_path / "r.md")]
    done = subprocess.run([*place, *words], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["rounds"], report["problems"]) == ("passed", 1, [])
    assert {case["case"]: case["rounds"] for case in report["cases"]} == {case.name: 1 for case in CASES}
    assert all(case["verdict"] == "passed" and case["seconds"]["least"] > 0 for case in report["cases"])
    seen = {case["case"]: case["seen"] for case in report["cases"]}
    assert seen["an answer of 1000 words"] == {"words": 1000}
    assert seen["a line of 100,000 bytes"]["longest_line"] > 100_000
    assert seen["many at the same time"] == {"executions": 3}
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert (tmp_path / "r.md").read_text() == markdown(report)
    assert report["executions"] == 1 + 3 + 1 + 1 + 1 + 1 + 3 + 1 + 1 + 1 + 1
    words = ["stress", "--json", "--categories", "error", "buffer", "--rounds", "3"]
    done = subprocess.run([*place, *words], capture_output=True, text=True, timeout=100, check=True)
    assert [(case["category"], case["rounds"]) for case in json.loads(done.stdout)["cases"]] == [
        ("error", 3),
        ("buffer", 3),
    ]


def execution(*events: dict, **outcome: object):
    """A daemon's answer to `execute`, with an execution that prints these and ends."""

    def answer(conversation, request):
        conversation.reply(request, {"execution_id": "e", "status": "started"})
        text = "".join(json.dumps(event) + "\n" for event in events)
        conversation.notify("process.output", execution_id="e", type="stdout", data=text, offset=0)
        ended = {
            "exit_code": 0,
            "reason": "exited",
            "status": "completed",
            "stdout_bytes": len(text),
            "pid": 1,
            "duration": 1.0,
        }
        conversation.notify("process.completed", execution_id="e", **{**ended, **outcome})

    return answer


@pytest.mark.parametrize(
    ("category", "answer", "message"),
    [
        ("simple", execution({"type": "result", "subtype": "success", "result": "hm"}), "the reply lacks"),
        ("simple", execution({"type": "assistant"}), "the final result is no success: there is none"),
        ("simple", execution(exit_code=1), "did not end well: exited, exit code 1"),
        ("timeout", execution(), "it ended by 'exited', not by its time-out"),
        ("timeout", execution({"waits_for": 1}, reason="timeout"), "processes of it are left: [1, 1]"),
        ("error", execution(), "it counts as a success"),
        ("long", execution({"type": "result", "subtype": "success", "result": "a b"}), "has 2 words only"),
        ("tools", execution({"type": "result", "subtype": "success", "result": "a b"}), "the reply lacks"),
        ("buffer", execution({"type": "result", "subtype": "success", "result": "xx"}), "longest line has"),
        ("environment", execution({}), "the environment is another one"),
    ],
)
def test_what_is_wrong_is_found(ctl, daemon, category, answer, message):
    """A daemon that loses or mixes up something fails its case, with the reason: exit 1."""
    daemon.answers |= {"status": STATUS, "execute": answer}
    said = ctl("stress", "--categories", category)
    assert said.code == 1
    assert message in said.err
    assert "failed: " in said.out


def test_output_that_was_dropped_is_found(ctl, daemon):
    """A gap is a failure, whatever came after it."""

    def answer(conversation, request):
        conversation.reply(request, {"execution_id": "e", "status": "started"})
        conversation.notify("process.gap", execution_id="e", dropped_bytes=7)

    daemon.answers |= {"status": STATUS, "execute": answer}
    said = ctl("stress", "--categories", "sequential", "--json")
    assert said.json["cases"][0]["failures"][0]["message"] == "output of e was dropped: 7 bytes"


def test_a_daemon_that_was_replaced_is_a_failure(ctl, daemon):
    """A restart in between is told, though every case passed."""
    pids = iter((1, 2))

    def status(conversation, request):
        conversation.reply(request, {**STATUS, "pid": next(pids)})

    daemon.answers["status"] = status
    daemon.answers["execute"] = execution(exit_code=3, status="failed")

    said = ctl("stress", "--categories", "error", "--rounds", "1")
    assert said.code == 1
    assert "the daemon is not the one that it was at the beginning" in said.out


@pytest.mark.parametrize(
    "words", [("--categories", "no"), ("--rounds", "0"), ("--parallel", "-1"), ("--agent", "x"), ("--claude", "x")]
)
def test_wrong_usage(ctl, words):
    """Exit 2."""
    assert ctl("stress", *words).code == 2


def test_without_a_daemon_there_is_nothing_to_test(ctl):
    """Exit 3, as of every verb."""
    assert ctl("stress").code == 3


def test_the_categories_are_those_that_were_promised():
    """Their names are for scripts, too."""
    assert (
        *("simple", "parallel", "long", "json", "timeout", "sequential", "error", "environment", "buffer", "tools"),
    ) == CATEGORIES


def test_both_agents_are_asked_the_same():
    """Whatever a case asks of one, the other can be asked; prompts are words of their own."""
    questions = {name for name in dir(StandIn()) if not name.startswith("_")}
    assert questions == {name for name in dir(Claude()) if not name.startswith("_")} | {"line"}
    assert Claude("/opt/claude").answer("m1")[:2] == ["/opt/claude", "-p"]


def test_a_line_that_is_no_event_is_named():
    """With its number."""
    run = Run("e")
    run.heed("process.output", {"type": "stdout", "data": "{}\noops\n"})
    with pytest.raises(CaseFailedError, match="line 2 of the output is no JSON object: 'oops'"):
        run.events()
