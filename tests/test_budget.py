"""What there is, and how many executions that makes."""

import json
import resource
import subprocess
import sys

import pytest

from ccexecd import budget
from ccexecd.budget import Budget
from ccexecd.keys import Config

LIMIT = (1024, 4096)


@pytest.mark.parametrize(
    ("descriptors", "processes", "connections", "executions"),
    [
        (64 + 2 * 100 + 800, None, 100, 100),
        (1024, None, 1024, 64),  # connections get half of what there is, at most
        (16, None, 1024, 1),
        (1, 1, 1, 1),
        (1 << 20, 800, 1024, 100),
        (1 << 20, 1 << 22, 1024, budget.MOST_RUNNING),
        (1 << 20, None, 1024, budget.MOST_RUNNING),
    ],
)
def test_how_many_executions_may_run(descriptors, processes, connections, executions):
    """As many as descriptors and processes allow, one at least, and not without end."""
    assert Budget(descriptors, processes, LIMIT).executions(connections) == executions


def test_connections_leave_half_of_the_descriptors():
    """However many the configuration allows: what runs needs some, too."""
    assert Budget(256, None, LIMIT).fitted(Config(max_connections=1024)).max_connections == 64
    assert Budget(256, None, LIMIT).fitted(Config(max_connections=1024, certfile="a.crt")).max_connections == 42
    assert Budget(1 << 20, None, LIMIT).fitted(Config(max_connections=1024)) == Config(max_connections=1024)


def claimed(soft: int, hard: int) -> dict[str, object]:
    """What a process that was started under a limit makes of it."""
    program = """
import json, resource
from ccexecd import budget
claimed = budget.claim()
print(json.dumps([claimed.descriptors, claimed.inherited, resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),  # no threads here
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(ran.stdout)


def test_the_limit_of_descriptors_is_raised_as_far_as_it_goes():
    """The soft one to the hard one; what we were started with is known."""
    assert claimed(64, 256) == [256, [64, 256], [256, 256]]
    assert claimed(256, 256) == [256, [256, 256], [256, 256]]


def test_looking_changes_nothing():
    """It tells what is in force."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = budget.look()
    assert seen.inherited == before == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert seen.descriptors == before[0]


@pytest.mark.parametrize(("text", "number"), [("max\n", None), ("512\n", 512), ("", None)])
def test_a_limit_in_a_file(tmp_path, text, number):
    """`max` is none, as in a control group without one."""
    file = tmp_path / "pids.max"
    assert budget._number_in(file) is None
    file.write_text(text)
    assert budget._number_in(file) == number


def test_the_least_limit_of_processes_counts(tmp_path, monkeypatch):
    """Of the user's, the machine's, and of every control group that we are in."""
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    outer.write_text("300")
    inner.write_text("max")
    monkeypatch.setattr(budget, "_control_groups", lambda: [inner, outer])
    monkeypatch.setattr(budget.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(budget.resource, "getrlimit", lambda _: (200, 200))
    assert budget._processes() == 200
    monkeypatch.setattr(budget.os, "geteuid", lambda: 0)
    assert budget._processes() == 300
