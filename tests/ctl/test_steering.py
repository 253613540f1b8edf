"""pause, resume, cancel and kill: one request each, and the truth of its answer."""

import pytest

DEEDS = [("pause", "PAUSE"), ("resume", "RESUME"), ("cancel", "CANCEL"), ("kill", "KILL")]


@pytest.mark.parametrize(("verb", "deed"), DEEDS)
def test_a_verb_is_one_control_request(ctl, daemon, verb, deed):
    """The id goes to the daemon as it was given: it resolves beginnings."""
    daemon.answers["control"] = {"status": "done", "execution_id": "1f0c9b2e-full", "survivors": []}
    said = ctl(verb, "1f0c")
    assert said == (0, "done 1f0c9b2e-full\n", "")
    assert daemon.asked("control") == [{"type": deed, "execution_id": "1f0c"}]


def test_cancel_has_a_grace(ctl, daemon):
    """--grace goes along in seconds."""
    daemon.answers["control"] = {"status": "cancelled", "execution_id": "e", "survivors": []}
    assert ctl("cancel", "e", "--grace", "2.5").code == 0
    assert daemon.asked("control")[0]["grace"] == 2.5


@pytest.mark.parametrize(("grace", "asked"), [("90s", 90), ("1.5m", 90), ("1h30m", 5400), ("0", 0), ("2d", 172_800)])
def test_a_grace_may_have_units(ctl, daemon, grace, asked):
    """As people write times; what the daemon is told is seconds."""
    daemon.answers["control"] = {"status": "cancelled", "execution_id": "e", "survivors": []}
    assert ctl("cancel", "e", "--grace", grace).code == 0
    assert daemon.asked("control")[0]["grace"] == asked


@pytest.mark.parametrize("grace", ["-1", "nan", "inf", "soon", "1x", "m", "1..2s", "5m3", "9" * 400 + "w"])
def test_a_grace_is_a_span_of_time(ctl, grace):
    """Anything else is wrong usage."""
    said = ctl("cancel", "e", "--grace", grace)
    assert said.code == 2
    assert "is not a number of seconds" in said.err or "expected one argument" in said.err


def test_survivors_are_a_failure(ctl, daemon):
    """Processes of which it is not true are named, and the exit code is 1, also with --json."""
    answer = {"status": "killed", "execution_id": "e", "survivors": [17, 18]}
    daemon.answers["control"] = answer
    said = ctl("kill", "e", "--json")
    assert said.code == 1
    assert said.json == answer
    assert "not killed: pid 17, pid 18" in said.err


def test_several_are_told_one_by_one(ctl, daemon, refusal):
    """One that is refused does not keep the others from it, and is a failure of the whole."""

    def answer(conversation, request):
        if request["params"]["execution_id"] == "b":
            conversation.send({"id": request["id"], "error": refusal(-32003, "no execution 'b'")._asdict()})
        else:
            done = {"status": "paused", "execution_id": request["params"]["execution_id"], "survivors": []}
            conversation.reply(request, done)

    daemon.answers["control"] = answer
    assert ctl("pause", "a", "b", "c") == (1, "paused a\npaused c\n", "ccexecctl: no execution 'b'\n")
    said = ctl("pause", "a", "b", "--json")
    assert said.code == 1
    assert [told.get("status") or told["error"]["name"] for told in said.json] == ["paused", "PROCESS_NOT_FOUND"]


def test_an_unknown_id_is_refused(ctl, daemon, refusal):
    """The daemon's words, its name for the error, and what to do."""
    daemon.answers["control"] = refusal(-32003, "no execution 'nope'")
    said = ctl("pause", "nope", "--json")
    assert said.code == 1
    assert said.json["error"]["name"] == "PROCESS_NOT_FOUND"
    assert "hint: every id that is known: ccexecctl ps --all" in said.plain


def test_the_daemon_s_words_are_escaped(ctl, daemon, refusal):
    """An error message may quote a stranger's text: it cannot move the cursor."""
    daemon.answers["control"] = refusal(-32003, "no execution \x1b[2J")
    assert "\x1b" not in ctl("pause", "x").err


@pytest.mark.parametrize(("verb", "_deed"), DEEDS)
def test_an_id_is_required(ctl, verb, _deed):
    """Without one: wrong usage."""
    assert ctl(verb).code == 2


@pytest.mark.parametrize(("verb", "done"), [("release", "released"), ("drop", "dropped")])
def test_what_is_held_is_one_or_all(ctl, daemon, verb, done):
    """One request; 1 when some stay held, and wrong usage without a choice, or with both."""
    daemon.answers[verb] = {done: 1, "still_held": 0}
    assert ctl(verb, "1f0c") == (0, f"{done} 1\n", "")
    daemon.answers[verb] = {done: 7, "still_held": 2}
    said = ctl(verb, "--all")
    assert (said.code, said.out) == (1, f"{done} 7\n")
    assert "2 may not run and stay held" in said.err
    assert daemon.asked(verb) == [{"execution_id": "1f0c"}, {"all": True}]
    assert ctl(verb).code == ctl(verb, "x", "--all").code == 2
