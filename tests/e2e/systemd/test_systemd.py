"""ccexecd.service under a real systemd: what `systemctl` says is true, and nothing outlives the daemon."""

import json
import re
import shlex
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

ESCAPING = (
    "trap '' TERM HUP; setsid sh -c \"trap '' TERM HUP; sleep 1001 & wait\" & env -i setsid sleep 1002 & "
    "sleep 1003; wait"
)
"""Five processes in three sessions: TERM does not end the shells, and one has an empty environment."""

TAKE_PORT = """
import os, signal, socket
listener = socket.create_server(("127.0.0.1", 8003))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""

GET_HEALTH = (
    "import urllib.request as r; a = r.urlopen('http://127.0.0.1:8003/health'); print(a.status, a.read().decode())"
)


def sleepers(service) -> set[str]:
    """The commands of ESCAPING that live, whoever they belong to."""
    return set(service.machine.sh("ps -e -o args= | grep -Eo '^sleep 100[0-9]+' || :").splitlines())


def of_the_account(service) -> list[str]:
    """Every process that runs as the account of the daemon."""
    return service.machine.sh("ps -u ccexecd -o args= || :").splitlines()


def start_escaping(service) -> str:
    """Start ESCAPING and return its execution id when all of it runs."""
    started = service.ask("run", "--detach", "--no-env", "--cwd", "/", "--shell", ESCAPING)
    service.machine.eventually(lambda: len(sleepers(service)) == 3, "every process of the command runs")
    return started["execution_id"]


def command(service, *argv: str):
    """Run a command in the daemon with the daemon's own environment."""
    return service.ctl("run", "--no-env", "--cwd", "/", "--", *argv, check=False)


def test_the_readme_starts_it(service):
    """The commands of the README, on top of its installation, end with a daemon that is enabled and answers."""
    said = service.machine.sh(f"set -eu\n{service.readme('Start')}")

    assert "Active: active (running)" in said
    assert 'Status: "listening on 127.0.0.1:8003"' in said
    assert service.machine.systemctl("is-enabled", "ccexecd").stdout == "enabled\n"


def test_started_means_that_both_doors_answer(service):
    """`systemctl start` returns 0 when the control socket and the port answer; the main process is the daemon."""
    assert service.machine.systemctl("start", "ccexecd").returncode == 0

    status = service.ask("status")
    assert (status["pid"], status["state"], status["address"]) == (service.main, "running", "127.0.0.1:8003")
    code, _, body = service.machine.run("/opt/ccexecd/bin/python", "-c", GET_HEALTH).stdout.partition(" ")
    assert (code, json.loads(body)["status"]) == ("200", "healthy")
    assert service.ctl("health").returncode == 0
    assert service.machine.show("ccexecd", "ActiveState", "SubState", "StatusText", "NRestarts") == {
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": "listening on 127.0.0.1:8003",
        "NRestarts": "0",
    }
    assert '"message":"listening"' in service.journal()


def test_what_it_writes_is_private(service):
    """The daemon's directories and files belong to its account, and nobody else reads them."""
    service.machine.systemctl("start", "ccexecd")

    listed = service.machine.sh(
        "cd / && stat -c '%n %U:%G %a' run/ccexecd run/ccexecd/control.sock run/ccexecd/ccexecd.pid"
        " var/lib/ccexecd var/lib/ccexecd/token var/log/ccexecd"
    )
    assert listed.splitlines() == [
        "run/ccexecd ccexecd:ccexecd 750",
        "run/ccexecd/control.sock ccexecd:ccexecd 600",
        "run/ccexecd/ccexecd.pid ccexecd:ccexecd 644",
        "var/lib/ccexecd ccexecd:ccexecd 750",
        "var/lib/ccexecd/token ccexecd:ccexecd 600",
        "var/log/ccexecd ccexecd:ccexecd 750",
    ]


def test_a_command_is_the_accounts_and_knows_nothing_of_systemd(service):
    """A command runs as the account with an ordinary umask and home, and cannot notify systemd."""
    service.machine.systemctl("start", "ccexecd")

    environ = dict(line.split("=", 1) for line in command(service, "env").stdout.splitlines())
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"} & environ.keys()
    assert (environ["HOME"], environ["USER"], environ["SHELL"]) == ("/var/lib/ccexecd", "ccexecd", "/bin/sh")
    assert command(service, "id", "-un").stdout == "ccexecd\n"
    assert command(service, "sh", "-c", "umask").stdout == "0022\n"
    assert command(service, "sh", "-c", "exit 7").returncode == 7


ORDINARY = {
    "a namespace with its own /proc": "unshare --user --map-root-user --pid --fork --mount-proc true",
    "a host name of its own": "unshare --user --map-root-user --uts hostname elsewhere",
    "memory that is written and executed": "/opt/ccexecd/bin/python -c 'import mmap; mmap.mmap(-1, 4096, prot=7)'",
    "a setgid directory": "cd $(mktemp -d) && chmod g+s . && test -g .",
    "addresses without randomness": "setarch -R true",
    "files in /tmp": "touch /tmp/ordinary-$$ && rm /tmp/ordinary-$$",
    "files in the home": "touch ~/ordinary && rm ~/ordinary",
    "kernel modules and settings": "ls /usr/lib/modules /proc/sys/kernel > /dev/null",
    "the kernel's random numbers": "head -c 8 /dev/urandom > /dev/null",
    "the loopback network": "/opt/ccexecd/bin/python -c 'import socket; socket.create_server((\"127.0.0.1\", 0))'",
    "real-time limits": "ulimit -r",
    "core dumps": "ulimit -c unlimited",
    "a pipe that closes early": "yes | head -n 1 > /dev/null",
}


@pytest.mark.parametrize("what", ORDINARY)
def test_the_unit_does_not_break_ordinary_commands(service, what):
    """What works in a shell of the account works under the unit."""
    service.machine.systemctl("start", "ccexecd")
    service.machine.sh("mkdir -p /usr/lib/modules")
    as_account = shlex.split("runuser -u ccexecd -- env HOME=/var/lib/ccexecd sh -c")
    outside = service.machine.run(*as_account, ORDINARY[what], check=False)
    if outside.returncode:
        pytest.skip(f"does not work outside of the unit either: {outside.stderr.strip()}")

    done = command(service, "sh", "-c", ORDINARY[what])

    assert done.returncode == 0, done.stderr


def test_nothing_can_raise_its_privileges(service):
    """Not even a set-uid root program gives a command more than the account has."""
    service.machine.systemctl("start", "ccexecd")
    service.machine.sh("install -m 4755 $(command -v id) /usr/local/bin/set-uid-id")

    assert service.machine.sh("runuser -u ccexecd -- set-uid-id -u") == "0\n"
    assert command(service, "set-uid-id", "-un").stdout == "ccexecd\n"


def test_the_sudo_drop_in_lets_commands_raise_their_privileges(service):
    """With ccexecd.service.d/sudo.conf a set-uid root program is one."""
    service.install_drop_in("sudo.conf")
    service.machine.systemctl("start", "ccexecd")
    service.machine.sh("install -m 4755 $(command -v id) /usr/local/bin/set-uid-id")

    assert command(service, "set-uid-id", "-un").stdout == "root\n"
    assert (
        command(service, "sh", "-c", "grep CapBnd /proc/self/status").stdout.split()[1]
        == (service.machine.sh("runuser -u ccexecd -- grep CapBnd /proc/self/status").split()[1])
    )


def test_the_confined_drop_in_still_runs_the_daemon(service):
    """With ccexecd.service.d/confined.conf the daemon starts, runs a command, reloads and stops with nothing left."""
    service.install_drop_in("confined.conf")
    if any(Path(sys.base_prefix).is_relative_to(home) for home in ("/root", "/home")):
        service.drop_in("[Service]\nProtectHome=no\n")  # it would hide the interpreter of these tests
    service.configure("process_cleanup_timeout = 0.5\n")
    service.machine.systemctl("start", "ccexecd")

    assert command(service, "sh", "-c", "echo hello").stdout == "hello\n"
    assert command(service, *ORDINARY["a host name of its own"].split()).returncode != 0
    start_escaping(service)
    service.machine.systemctl("reload", "ccexecd")
    service.machine.systemctl("stop", "ccexecd")
    assert of_the_account(service) == []


def test_a_good_configuration_is_taken_over_while_commands_run(service):
    """`systemctl reload` puts the new configuration in force; daemon and commands go on."""
    service.configure("max_sessions = 5\n")
    service.machine.systemctl("start", "ccexecd")
    main = service.main
    execution_id = start_escaping(service)

    service.configure("max_sessions = 7\n")
    assert service.machine.systemctl("reload", "ccexecd").returncode == 0

    assert service.ask("status")["max_sessions"] == 7
    assert service.main == main
    assert [each["execution_id"] for each in service.ask("ps")] == [execution_id]
    assert service.machine.show("ccexecd", "ActiveState", "SubState", "StatusText") == {
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": "listening on 127.0.0.1:8003",
    }


def test_a_bad_configuration_changes_nothing(service):
    """`systemctl reload` fails, the journal has the reason, and the old configuration stays in force."""
    service.configure("max_sessions = 5\n")
    service.machine.systemctl("start", "ccexecd")
    main = service.main
    execution_id = start_escaping(service)

    service.configure("max_sessions = 7\nmax_sesions = 8\n")
    refused = service.machine.systemctl("reload", "ccexecd", check=False)

    assert refused.returncode == 1
    assert "max_sesions" in service.journal()
    assert service.ask("status")["max_sessions"] == 5
    assert service.main == main
    assert [each["execution_id"] for each in service.ask("ps")] == [execution_id]
    assert service.machine.show("ccexecd", "ActiveState", "SubState", "NRestarts") == {
        "ActiveState": "active",
        "SubState": "running",
        "NRestarts": "0",
    }
    service.configure("max_sessions = 7\n")
    assert service.machine.systemctl("reload", "ccexecd").returncode == 0


def test_a_stop_ends_commands_and_leaves_nothing(service):
    """`systemctl stop` returns when everything that commands started has ended, however hard it tried not to."""
    service.configure("process_cleanup_timeout = 0.5\n")
    service.machine.systemctl("start", "ccexecd")
    start_escaping(service)

    assert service.machine.systemctl("stop", "ccexecd").returncode == 0

    assert sleepers(service) == set()
    assert of_the_account(service) == []
    assert service.machine.show("ccexecd", "ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }
    assert "SIGTERM received" in service.journal()
    assert service.machine.run("test", "-e", "/run/ccexecd", check=False).returncode == 1
    # It was the daemon that ended them: systemd, which would kill what is left, found nothing.
    assert "remains running" not in service.journal()
    assert "Killing process" not in service.journal()


def test_ccexecctl_and_systemctl_agree(service):
    """What `ccexecctl stop` has ended stays ended; `ccexecctl restart` leaves a daemon of systemd's to systemctl."""
    service.machine.systemctl("start", "ccexecd")
    main = service.main

    refused = service.ctl("restart", check=False)
    assert (refused.returncode, service.main) == (1, main)
    assert "systemctl restart ccexecd" in refused.stderr
    service.ctl("stop")

    service.machine.eventually(lambda: service.main == 0, "systemd knows that it has ended")
    assert service.machine.show("ccexecd", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert service.ctl("status", check=False).returncode == 3


def test_a_stop_asks_for_the_time_that_a_drain_takes(service):
    """A drain longer than TimeoutStopSec= is not cut short: the command finishes by itself."""
    service.drop_in("[Service]\nTimeoutStopSec=1\n")
    service.configure("drain_timeout = 20\n")
    service.machine.systemctl("start", "ccexecd")
    marker = "/var/lib/ccexecd/finished"
    service.ask("run", "--detach", "--no-env", "--cwd", "/", "--shell", f"sleep 3; echo yes > {marker}")

    began = time.monotonic()
    service.machine.systemctl("stop", "ccexecd")

    assert service.machine.sh(f"cat {marker}") == "yes\n"
    assert time.monotonic() - began < 15
    assert service.machine.show("ccexecd", "Result") == {"Result": "success"}


def test_a_crash_leaves_no_command_and_is_repaired(service):
    """After `kill -9` of the daemon, systemd starts it again, and nothing of its commands is left."""
    service.machine.systemctl("start", "ccexecd")
    main = service.main
    start_escaping(service)

    service.machine.sh(f"kill -KILL {main}")

    service.machine.eventually(lambda: service.main not in {0, main} and service.is_up(), "it runs again", within=20)
    assert sleepers(service) == set()
    assert service.machine.show("ccexecd", "NRestarts") == {"NRestarts": "1"}
    assert service.ask("status")["pid"] == service.main
    assert service.ask("ps") == []
    assert "status=9/KILL" in service.journal()


def test_daemon_and_keeper_killed_at_once_leave_no_command(service):
    """Nobody of ours is left to see to it: systemd is."""
    service.machine.systemctl("start", "ccexecd")
    main = service.main
    start_escaping(service)
    keeper = service.ask("status")["keeper"]["pid"]

    service.machine.sh(f"kill -KILL {main} {keeper}")

    service.machine.eventually(lambda: service.main not in {0, main} and service.is_up(), "it runs again", within=20)
    assert sleepers(service) == set()
    assert service.ask("ps") == []


def test_a_command_has_a_control_group_of_its_own(service):
    """systemd has delegated its group to the daemon, which divides it; all of a command is in one part of it."""
    service.machine.systemctl("start", "ccexecd")
    start_escaping(service)
    base = service.ask("status")["keeper"]["control_group"]

    assert base.startswith("/sys/fs/cgroup/system.slice/ccexecd.service/ccexecd-")
    groups = service.machine.sh("pgrep -f '^sleep 100' | sed 's:.*:/proc/&/cgroup:' | xargs grep -h ^0::").split()
    assert len(groups) == 3
    assert len(set(groups)) == 1
    own = service.machine.sh(f"grep ^0:: /proc/{service.main}/cgroup").strip()
    assert own == f"0::{base.removeprefix('/sys/fs/cgroup')}/daemon"
    assert groups[0].startswith(own.removesuffix("daemon"))
    assert groups[0] != own

    service.machine.systemctl("restart", "ccexecd")

    assert sleepers(service) == set()
    assert service.machine.sh("ls -d /sys/fs/cgroup/system.slice/ccexecd.service/ccexecd-*").split() == [
        service.ask("status")["keeper"]["control_group"]
    ]


def test_a_daemon_that_hangs_is_ended_and_started_again(service):
    """A daemon that does not feed the watchdog is killed with all of its commands, and replaced."""
    service.drop_in("[Service]\nWatchdogSec=2\n")
    service.machine.systemctl("start", "ccexecd")
    main = service.main
    start_escaping(service)

    service.machine.sh(f"kill -STOP {main}")

    service.machine.eventually(lambda: service.main not in {0, main} and service.is_up(), "it runs again", within=30)
    assert sleepers(service) == set()
    assert service.machine.show("ccexecd", "NRestarts") == {"NRestarts": "1"}
    assert "Watchdog timeout" in service.journal()
    assert service.ctl("health").returncode == 0


def test_a_daemon_that_works_is_left_alone_by_the_watchdog(service):
    """A healthy daemon feeds the watchdog while commands keep it busy."""
    service.drop_in("[Service]\nWatchdogSec=1\n")
    service.machine.systemctl("start", "ccexecd")
    main = service.main

    assert (
        command(
            service, "sh", "-c", "timeout 3 yes > /dev/null; timeout 1 yes | head -c 100M | tail -c 1 | wc -c"
        ).returncode
        == 0
    )

    assert service.main == main
    assert service.machine.show("ccexecd", "NRestarts") == {"NRestarts": "0"}


def test_a_taken_port_fails_the_start_with_the_reason(service):
    """`systemctl start` fails and the journal names the address; when it is free, systemd's next attempt succeeds."""
    holder = ["systemd-run", "--unit=holder", "--service-type=notify", "/opt/ccexecd/bin/python", "-c", TAKE_PORT]
    service.machine.run(*holder)
    try:
        assert service.machine.systemctl("start", "ccexecd", check=False).returncode == 1
        reason = service.journal()
        assert re.search(r"127\.0\.0\.1.*8003.*in use", reason), reason
        assert "Traceback" not in reason
        assert "status=1/FAILURE" in reason
    finally:
        service.machine.systemctl("stop", "holder")
    service.machine.eventually(service.is_up, "it starts by itself when the port is free")


def test_a_bad_configuration_fails_the_start_with_the_reason(service):
    """`systemctl start` fails; the journal names the key, the file and what would be right."""
    service.configure("max_sesions = 8\n")

    assert service.machine.systemctl("start", "ccexecd", check=False).returncode == 1

    reason = service.journal()
    assert "max_sesions" in reason
    assert "max_sessions" in reason
    assert "/etc/ccexecd/ccexecd.toml" in reason
    assert "Traceback" not in reason


def test_it_gives_up_after_five_failures(service):
    """A start that keeps failing is not repeated for ever."""
    service.drop_in("[Service]\nRestartSec=50ms\n")
    service.configure("max_sesions = 8\n")

    service.machine.systemctl("start", "ccexecd", check=False)

    service.machine.eventually(
        lambda: service.machine.show("ccexecd", "ActiveState") == {"ActiveState": "failed"}, "systemd has given up", 20
    )
    assert "Start request repeated too quickly" in service.journal()


def test_the_environment_file_is_read(service):
    """A key in /etc/default/ccexecd is in force, and stronger than the file."""
    service.configure("max_sessions = 5\n")
    service.machine.sh("cp -p /etc/default/ccexecd /run/default; echo CCEXECD_MAX_SESSIONS=9 >> /etc/default/ccexecd")
    try:
        service.machine.systemctl("start", "ccexecd")
        assert service.ask("status")["max_sessions"] == 9
    finally:
        service.machine.sh("mv /run/default /etc/default/ccexecd")


def test_the_units_are_valid(service):
    """systemd itself has nothing to say against the unit, as it is and with each drop-in."""
    for drop_in in (None, "sudo.conf", "confined.conf"):
        service.reset()
        if drop_in:
            service.install_drop_in(drop_in)
        assert service.machine.run("systemd-analyze", "verify", "ccexecd.service").stderr == ""
