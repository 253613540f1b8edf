"""What the throw-away machines promise to the tests that use them: a real systemd, and nothing left of it."""

import os
import signal
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.systemd

NOTIFIER = """
import os, signal, socket
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
say("READY=1\\nSTATUS=as ready as can be")
signal.pause()
"""

UNIT = """
[Service]
Type=notify
ExecStart={prefix}/bin/python3 /srv/notifier.py
"""


def processes_in(namespace: str) -> list[str]:
    """Every process of a PID namespace, by its number here."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str((entry / "ns/pid").readlink()) == namespace:
                found.append(entry.name)
        except OSError:
            continue  # it ended meanwhile
    return found


def test_systemd_runs_a_notify_service(boot):
    """A Type=notify service starts, shows its status text, leaves its words in the journal and stops."""
    machine = boot()
    machine.write("/srv/notifier.py", NOTIFIER)
    machine.write("/run/systemd/system/notifier.service", UNIT.format(prefix=sys.base_prefix))

    assert machine.systemctl("start", "notifier").returncode == 0
    assert machine.show("notifier", "ActiveState", "StatusText") == {
        "ActiveState": "active",
        "StatusText": "as ready as can be",
    }
    assert "Started notifier.service" in machine.sh("journalctl --sync; journalctl -u notifier -o cat")
    machine.systemctl("stop", "notifier")
    assert machine.show("notifier", "ActiveState") == {"ActiveState": "inactive"}


def test_nothing_is_left_of_a_machine(boot):
    """The end of a machine takes its processes, control groups and mounts along, and its files never were here."""
    mounts = Path("/proc/self/mounts").read_text()
    machine = boot()
    machine.write("/srv/only-inside", "x")
    machine.sh("trap '' TERM HUP; setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 &")
    namespace = str(Path(f"/proc/{machine.init}/ns/pid").readlink())
    machine.eventually(lambda: len(processes_in(namespace)) == 5, "systemd, the journal, a shell and two commands run")

    machine.close()

    assert processes_in(namespace) == []
    assert not machine.cgroup.exists()
    assert Path("/proc/self/mounts").read_text() == mounts
    assert not Path("/srv/only-inside").exists()


def test_a_machine_whose_boot_script_is_killed_ends_too(boot):
    """Not even `kill -9` of boot.sh, which can then sweep up nothing, leaves a process of the machine behind."""
    machine = boot()
    namespace = str(Path(f"/proc/{machine.init}/ns/pid").readlink())

    os.kill(machine._boot.pid, signal.SIGKILL)

    machine.eventually(lambda: not processes_in(namespace), "every process of the machine has ended")
    machine.close()
    assert not machine.cgroup.exists()
