"""The examples of docs/python.md and README.md: what is shown there exists, and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ccexecctl.api.task_file import read_tasks

from . import anthropic_api
from .anthropic_api import Text

ROOT = Path(__file__).parents[2]

PYTHON = (ROOT / "docs" / "python.md").read_text()
EXAMPLES = [
    *re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL),
    *(
        each
        for each in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "api" in each
    ),
]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """A home with a daemon, which the first example starts, and an agent called claude on its PATH."""
    home = tmp_path_factory.mktemp("home")
    program = home / "claude"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/e2e/claude_standin.py "$@"\n')
    program.chmod(0o755)
    state = home / "state"
    state.mkdir()
    (state / "ccexecd.toml").write_text("port = 0\n")
    with anthropic_api.serve() as api:
        api.answers["What is 2+2?"] = [Text(["4"])]
        api.answers["Name a colour"] = [Text(['{"name": "red"}'])]
        for prompt in ("Review src", "Tidy up", "List the public", "Write a test"):
            api.answers[prompt] = [Text(["Done."])]
        kept = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        yield {
            **kept,
            "PATH": f"{home}:{os.environ['PATH']}",
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "CCEXECD_STATE_DIR": str(state),
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "sk-ant-stand-in",
        }
        stop = [sys.executable, "-m", "ccexecctl", "--state-dir", str(state), "stop"]
        subprocess.run(stop, check=True, capture_output=True, timeout=60)


def test_examples_run(surroundings):
    """Each as it stands there, in an interpreter of its own, in the order in which a reader meets them."""
    for example in EXAMPLES:
        run = [sys.executable, "-c", example]
        done = subprocess.run(run, env=surroundings, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), example
        assert done.stdout.strip(), example


def test_the_list_of_tasks_is_one(tmp_path):
    """So is the TOML that is shown."""
    (text,) = re.findall(r"```toml\n(.*?)```", PYTHON, re.DOTALL)
    path = tmp_path / "plan.toml"
    path.write_text(text)
    assert [task.name for task in read_tasks(path).tasks] == ["functions", "tests"]
