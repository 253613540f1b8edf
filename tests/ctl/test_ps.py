"""ps: what is listed, and how each ending is named."""

import pytest

RUNNING = {
    "execution_id": "1f0c9b2e-0000-4000-8000-000000000000",
    "session_id": "s",
    "state": "RUNNING",
    "command": "sleep 60",
    "argv": ["sleep", "60"],
    "pid": 4711,
    "started_at": "2020-01-02T03:04:05Z",
    "duration": 12.3,
    "exit_code": None,
    "signal": None,
    "reason": None,
    "cpu_seconds": 3.21,
    "memory_bytes": 12 << 20,
    "process_count": 2,
}


def process(pid: int, ppid: int, name: str) -> dict[str, object]:
    return {"pid": pid, "ppid": ppid, "name": name, "state": "sleeping", "cpu_seconds": 0.1, "memory_bytes": 2048}


def test_ps_prints_a_table(ctl, daemon):
    """A line for each live execution, with the id that other verbs take."""
    daemon.answers["list"] = {"executions": [RUNNING]}
    header, row = ctl("ps").out.splitlines()
    assert header.split() == ["ID", "STATE", "PID", "STARTED", "DURATION", "CPU", "MEM", "PROCS", "COMMAND"]
    assert row.split()[:3] == ["1f0c9b2e", "running", "4711"]
    assert row.endswith("12s       3.2s  12.0 MiB  2      sleep 60")
    assert daemon.asked("list") == [{"state": "live", "limit": 10_000, "resources": True}]


def test_what_waits_shows_its_position(ctl, daemon):
    """It has neither a process nor a start yet."""
    waiting = {**RUNNING, "state": "QUEUED", "queue_position": 12, "pid": None, "started_at": None, "duration": 0.0}
    daemon.answers["list"] = {"executions": [waiting]}
    assert ctl("ps").out.splitlines()[1].split()[:5] == ["1f0c9b2e", "queued", "12", "-", "-"]


def test_what_waits_has_its_lane_and_uses_nothing(ctl, daemon):
    """The place is one in the line of its lane; what has no process has used nothing yet."""
    waiting = {"state": "QUEUED", "queue_position": 1, "lane": "slow", "pid": None, "started_at": None, "duration": 0.0}
    use = {"cpu_seconds": 0.0, "memory_bytes": 0, "process_count": 0}
    daemon.answers["list"] = {"executions": [{**RUNNING, **waiting, **use}]}
    assert ctl("ps").out.splitlines()[1].split() == ["1f0c9b2e", "queued", "1", "(slow)", *("-" * 6), "sleep", "60"]


def test_ids_of_a_label_can_be_handed_on(ctl, daemon):
    """Whole ids, one a line, of those that the daemon finds by the label."""
    daemon.answers["list"] = {"executions": [RUNNING, RUNNING]}
    assert ctl("ps", "-q", "--label", "job=nightly").out == f"{RUNNING['execution_id']}\n" * 2
    assert daemon.asked("list")[0]["label"] == "job=nightly"


def test_what_has_finished_uses_nothing(ctl, daemon):
    """A dash for each of what there is no more."""
    used = ("cpu_seconds", "memory_bytes", "process_count")
    finished = {**{name: fact for name, fact in RUNNING.items() if name not in used}, "state": "FINISHED"}
    daemon.answers["list"] = {"executions": [finished]}
    assert ctl("ps", "-a").out.splitlines()[1].split()[-5:] == ["-", "-", "-", "sleep", "60"]


def test_ps_tree_draws_the_processes_of_each(ctl, daemon):
    """Below its row: children below their parents, orphans beside the leader."""
    processes = [
        *(process(4711, 9, "sh"), process(4712, 4711, "make"), process(4714, 4712, "cc\x1b[31m")),
        *(process(4713, 4711, "sleep"), process(5000, 9, "server"), process(5001, 5000, "worker")),
    ]
    alone = {**RUNNING, "command": "true", "processes": [process(6000, 9, "true")], "process_count": 4}
    daemon.answers["list"] = {"executions": [{**RUNNING, "processes": processes, "process_count": 6}, alone]}
    _, row, *lines = ctl("ps", "--tree").out.splitlines()
    use = "  (sleeping, 0.1s, 2.0 KiB)"
    assert row.endswith("sleep 60")
    assert lines[:6] == [
        "  ├─ 4711 sh" + use,
        "  │  ├─ 4712 make" + use,
        "  │  │  └─ 4714 cc\\x1b[31m" + use,
        "  │  └─ 4713 sleep" + use,
        "  └─ 5000 server" + use,
        "     └─ 5001 worker" + use,
    ]
    assert lines[6].endswith("true")
    assert lines[7:] == ["  └─ 6000 true" + use, "  and 3 more"]
    assert daemon.asked("list")[0]["tree"] is True


def test_ps_all_asks_for_the_finished_too(ctl, daemon):
    """--all lifts the filter."""
    daemon.answers["list"] = {"executions": []}
    assert ctl("ps", "-a").code == 0
    assert daemon.asked("list") == [{"limit": 10_000, "resources": True}]


def test_ps_json_is_a_list(ctl, daemon):
    """A list of objects as the daemon gave them; an empty one when there are none."""
    daemon.answers["list"] = {"executions": [RUNNING]}
    assert ctl("ps", "--json").json == [RUNNING]
    daemon.answers["list"] = {"executions": []}
    assert ctl("ps", "--json").json == []


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        ({"state": "PAUSED"}, "paused"),
        ({"state": "FINISHED", "reason": "exited", "exit_code": 3}, "exit 3"),
        ({"state": "FINISHED", "reason": "signaled", "exit_code": -9, "signal": 9}, "signal 9"),
        ({"state": "FINISHED", "reason": "timeout", "exit_code": -15, "signal": 15}, "timeout"),
        ({"state": "FINISHED", "reason": "lost"}, "lost"),
    ],
)
def test_the_state_says_how_it_ended(ctl, daemon, ending, shown):
    """A finished execution is listed with its ending."""
    daemon.answers["list"] = {"executions": [{**RUNNING, **ending}]}
    assert f"  {shown} " in ctl("ps", "--all").out


def test_a_command_cannot_take_over_the_terminal(ctl, daemon):
    """Escape sequences and line feeds of a command line are shown, not obeyed."""
    daemon.answers["list"] = {"executions": [{**RUNNING, "command": "evil\x1b]0;title\x07\n1f0c9b2e  running"}]}
    out = ctl("ps").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_a_reader_that_leaves_is_no_failure(daemon, ctl_process):
    """`ccexecctl ps | head -0` ends quietly, as other programs do by SIGPIPE."""
    daemon.answers["list"] = {"executions": [RUNNING] * 10_000}
    process = ctl_process("ps")
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""


def test_what_does_not_fit_is_told(ctl, daemon):
    """On stderr: the table is of the newest."""
    daemon.answers["list"] = {"executions": [RUNNING], "truncated": True}
    assert "these are the newest 1" in ctl("ps").err
