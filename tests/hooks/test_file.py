"""The hooks file: what it holds, everything that is wrong with it at once, and who may write it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccexecd.config import ConfigError
from ccexecd.config import load as load_config
from ccexecd.core.hooks import Hook
from ccexecd.hooks import entry
from ccexecd.hooks.file import load as load_hooks
from ccexecd.operator_file import FaultyFileError

ROOT = Path(__file__).parent.parent.parent

EXAMPLE = """
[[hook]]
name = "first"
events = ["pre_execute"]
run = ["/bin/sh", "-c", "true"]
timeout = 2
required = true
pass_environment = ["PATH"]
program = ["git"]
labels = { job = "nightly-*" }

[[hook]]
name = "second"
events = ["on_output", "post_execute"]
run = ["/bin/cat"]
streams = ["stderr"]
"""


@pytest.fixture
def write(tmp_path: Path):
    """Puts a text into a hooks file."""

    def write(text: str) -> Path:
        file = tmp_path / "hooks.toml"
        file.write_text(text)
        file.chmod(0o600)
        return file

    return write


def faults(file: Path) -> list[tuple[str, str]]:
    with pytest.raises(FaultyFileError) as caught:
        load_hooks(file)
    return [tuple(fault) for fault in caught.value.faults]


def hook_with(line: str) -> str:
    """A hook that is right but for a line."""
    given = line.partition(" =")[0]
    lines = ['name = "x"', 'events = ["pre_execute"]', 'run = ["/bin/sh"]']
    return "\n".join(["[[hook]]", *(each for each in lines if not each.startswith(f"{given} =")), line])


def test_hooks_are_read(write):
    """In their order."""
    assert load_hooks(write(EXAMPLE)) == (
        Hook(
            "first",
            ("pre_execute",),
            ("/bin/sh", "-c", "true"),
            timeout=2.0,
            required=True,
            pass_environment=("PATH",),
            program=("git",),
            labels=(("job", "nightly-*"),),
        ),
        Hook("second", ("on_output", "post_execute"), ("/bin/cat",), streams=("stderr",)),
    )
    assert load_hooks(write("")) == ()


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("hook =", "", "not valid TOML"),
        ("[[hoook]]", "", "unknown field: hoook"),
        (hook_with('name = ""'), "hook[0].name", "1 to 100 characters"),
        (hook_with("events = []"), "hook[0].events", "one event"),
        (hook_with('events = ["pre"]'), "hook[0].events[0]", "expected one of"),
        (hook_with('run = "/bin/sh"'), "hook[0].run", "expected array"),
        (hook_with('run = ["sh"]'), "hook[0].run[0]", "absolute path"),
        (hook_with('run = ["/no/such"]'), "hook[0].run[0]", "No such file"),
        (hook_with('run = ["/etc/passwd"]'), "hook[0].run[0]", "chmod +x"),
        (hook_with("run = []"), "hook[0]", "exactly one of run and entry_point"),
        (hook_with('entry_point = "x"'), "hook[0]", "exactly one of run and entry_point"),
        (hook_with("timeout = 0"), "hook[0].timeout", "more than 0"),
        (hook_with("timeout = 4000"), "hook[0].timeout", "at most 3600"),
        (hook_with("batch_bytes = 1"), "hook[0].batch_bytes", "from 1024"),
        (hook_with('streams = ["stdin"]'), "hook[0].streams", "stdout"),
        (hook_with('command = ["re:("]'), "hook[0].command[0]", "not a valid regular expression"),
        (hook_with('labels = { a = "re:(a+)+" }'), "hook[0].labels.a", "too long"),
        (hook_with('pass_environment = ["A=B"]'), "hook[0].pass_environment[0]", "a name"),
        (hook_with('events = ["on_error"]\nrequired = true'), "hook[0].required", "pre_execute"),
        (hook_with("required = 1"), "hook[0].required", "expected boolean"),
        (hook_with("") + "\n" + hook_with(""), "hook[1].name", "another hook"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(write, text, place, message):
    """A hook is named by its number in the file, from 0."""
    (told,) = faults(write(text))
    assert told[0] == place
    assert message in told[1]


def test_a_file_that_others_may_write_is_refused(write, tmp_path):
    """It would be theirs to say what runs as the daemon; so it is with a program, and with a directory of one."""
    file = write(EXAMPLE)
    file.chmod(0o666)
    assert faults(file) == [("", "may be written by others, who could have anything run; take that away: chmod go-w")]
    program = tmp_path / "open" / "hook"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    file = write(hook_with(f'run = ["{program}"]'))
    assert faults(file)[0][0] == "hook[0].run[0]"
    program.chmod(0o755)
    program.parent.chmod(0o777)
    assert "in a directory that everybody may write" in faults(file)[0][1]
    (tmp_path / "link").symlink_to("/bin/sh")
    (tmp_path / "open" / "link").symlink_to("/bin/sh")
    assert len(load_hooks(write(hook_with(f'run = ["{tmp_path}/link"]')))) == 1
    assert "in a directory" in faults(write(hook_with(f'run = ["{tmp_path}/open/link"]')))[0][1]
    program.parent.chmod(0o755)
    write(hook_with(f'run = ["{program}"]'))
    assert len(load_hooks(file)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(write):
    """They could change it."""
    file = write(EXAMPLE)
    os.chown(file, 65534, -1)
    assert "belongs to the user 65534" in faults(file)[0][1]


def test_the_configuration_tells_of_it(write, tmp_path):
    """With the key's place in it, and the file."""
    file = write(hook_with("timeout = -1"))
    with pytest.raises(ConfigError) as caught:
        load_config({"hooks_file": str(file), "state_dir": str(tmp_path)}, {})
    assert f"hook[0].timeout (hooks file {file}): " in str(caught.value)
    assert load_config({"state_dir": str(tmp_path)}, {}).hooks == ()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that announces an entry point."""
    folder = tmp_path / "site"
    (folder / "veto-1.dist-info").mkdir(parents=True)
    (folder / "veto-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: veto\nVersion: 1\n")
    (folder / "veto-1.dist-info" / "entry_points.txt").write_text(f"[{entry.GROUP}]\nveto = veto:judge\n")
    (folder / "veto.py").write_text(
        "import os\n"
        "def judge(told):\n"
        "    print('noise', flush=True); os.system('echo more noise')\n"
        "    return {'decision': 'refuse', 'reason': told['execution']['command']} if told else None\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_an_entry_point_is_called_in_a_process_of_its_own(write, installed):
    """With the daemon's Python; what it prints is no part of its answer."""
    (hook,) = load_hooks(write(hook_with('entry_point = "veto"').replace('run = ["/bin/sh"]\n', "")))
    assert hook.run == (sys.executable, "-P", entry.__file__, "veto")
    for told, answer in (({"execution": {"command": "x"}}, '{"decision": "refuse", "reason": "x"}'), ({}, "")):
        done = subprocess.run(
            hook.run,
            input=json.dumps(told),
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr.split()) == (answer, ["noise", "more", "noise"])


def test_an_entry_point_has_to_be_installed(write):
    """Else it is told which there are."""
    text = hook_with('entry_point = "nobody"').replace('run = ["/bin/sh"]\n', "")
    assert faults(write(text)) == [
        ("hook[0].entry_point", "is not installed in the group ccexecd.hooks, where there are none")
    ]


def test_the_documented_file_is_valid(write):
    """With the shipped hooks where it says that they are installed."""
    text = (ROOT / "docs" / "hooks.md").read_text()
    block = text.partition("```toml\n")[2].partition("```")[0]
    assert block
    hooks = load_hooks(write(block.replace("/etc/ccexecd/hooks", str(ROOT / "contrib" / "hooks"))))
    assert {event for hook in hooks for event in hook.events} >= {"pre_execute", "on_error"}
