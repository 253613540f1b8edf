"""What a one-shot verb loads: it has to answer in the time that a person does not notice."""

import subprocess
import sys

import pytest

from ccexecctl import commands

BANNED = {
    "trio": "200 ms of CPU",
    "trio_websocket": "290 ms of CPU",
    "attr": "with cattrs 120 ms of CPU",
    "attrs": "with cattrs 120 ms of CPU",
    "cattr": "120 ms of CPU",
    "cattrs": "120 ms of CPU",
    "orjson": "a compiled module that json replaces here",
    "psutil": "70 ms of CPU",
    "daemon": "python-daemon is the daemon's",
    "h11": "the daemon's",
    "asyncio": "60 ms of CPU",
    "subprocess": "only a start needs it",
    "logging": "the daemon's",
    "tomllib": "only config needs it",
}
"""Module -> why a one-shot verb must not import it."""


def imported_by(*words: str) -> set[str]:
    """All modules that a call of ccexecctl has imported at its end."""
    program = (
        "import atexit, sys; from ccexecctl.__main__ import main\n"
        "atexit.register(lambda: print('\\nMODULES', *sys.modules))\n"
        f"sys.exit(main({list(words)!r}))"
    )
    # -S: no site-packages, whose start-up hooks (an editable install, coverage) import things of their own.
    command = [sys.executable, "-S", "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return set(said.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("verb", ["status", "health", "ps", "version", "reload", "stop", "restart"])
def test_one_shot_verbs_import_little(daemon, refusal, verb):
    """No verb that only asks a question loads what only the daemon needs."""
    daemon.answers |= {"list": {"executions": []}, "reload": {"changed": [], "needs_restart": []}}
    daemon.answers["stop"] = refusal(-32603, "no")  # coming as far as that is enough
    modules = imported_by("--state-dir", str(daemon.directory), verb)
    assert "ccexecctl.client" in modules
    checks_first = {"subprocess"} if verb == "restart" else set()  # it asks ccexecd whether it could start again
    assert not {name: BANNED[name] for name in (modules - checks_first) & BANNED.keys()}


def test_run_imports_little(daemon):
    """A command under a daemon that runs starts as fast."""

    def execute(conversation, request):
        conversation.reply(request, {"execution_id": "e1", "status": "started"})
        conversation.completed()

    daemon.answers["execute"] = execute
    modules = imported_by("--state-dir", str(daemon.directory), "run", "--", "true")
    assert "ccexecctl.foreground" in modules
    assert not modules & BANNED.keys()


def test_attach_imports_little(daemon):
    """So does being with what runs already."""
    known = {"execution_id": "e1", "state": "FINISHED", "pty": None, "stdin": "closed"}
    ended = {"exit_code": 0, "reason": "exited"}
    daemon.answers |= {"status": known, "attach": {"state": "FINISHED", "next_seq": 4}, "wait": ended}
    modules = imported_by("--state-dir", str(daemon.directory), "attach", "e1")
    assert "ccexecctl.following" in modules
    assert not modules & BANNED.keys()


def test_only_the_chosen_verb_is_imported(daemon):
    """One verb never pays for another."""
    loaded = imported_by("--state-dir", str(daemon.directory), "status")
    assert {name for name in loaded if name.startswith("ccexecctl.commands.")} == {"ccexecctl.commands.status"}


def test_the_table_of_verbs_is_complete():
    """The list above is about verbs that exist."""
    assert {
        "status",
        "health",
        "ps",
        "version",
        "reload",
        "stop",
        "restart",
        "run",
        "attach",
    } <= commands.SUMMARIES.keys()
