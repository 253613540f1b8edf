"""A throw-away machine whose PID 1 is a real systemd (boot.sh), and how tests act inside it.

A machine ends with the pipe to its boot.sh: with `close`, or with this process, whatever ends that.
"""

import json
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
UNITS = CHECKOUT / "contrib" / "systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOT_LIMIT = 30.0
"""Seconds that a boot may take; it takes half a second."""

INSTALL_LIMIT = 240.0
"""Seconds that venv and pip may take beforehand, with packages from the network."""

OVERLAY_PROBE = (
    "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/new && "
    "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/new && "
    "mount -t proc proc /mnt/new/proc"
)


class Machine:
    """One booted machine.

    Attributes:
        init: its PID 1, as this machine's kernel numbers it.
        cgroup: its control group, as this machine sees it.
    """

    def __init__(self, log: Path, prepare: str | None = None) -> None:
        name = f"test-machine-{os.getpid()}-{time.monotonic_ns()}"
        self.log = log
        self.cgroup = Path(_cgroup2_mount() or "/", name)
        ready, write_end = os.pipe()
        with log.open("wb") as output:
            self._boot = subprocess.Popen(
                ["bash", "-c", 'exec 3>&"$0" && eval "exec $0>&-" && exec "$@"', str(write_end), HERE / "boot.sh", name]
                + (["bash", "-euxc", prepare] if prepare else []),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[write_end],
                env=os.environ | {"PYTHON_PREFIX": sys.base_prefix},
                start_new_session=True,
            )
        os.close(write_end)
        try:
            self.init = int(self._line(ready, INSTALL_LIMIT if prepare else BOOT_LIMIT))
            self.eventually(self._is_up, "the machine has booted", BOOT_LIMIT)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready)

    def _line(self, ready: int, within: float) -> str:
        if not select.select([ready], [], [], within)[0] or not (line := os.read(ready, 32)).strip():
            tail = self.log.read_text(errors="replace")[-4000:]
            pytest.fail(f"the machine did not boot; end of its log:\n{tail}", pytrace=False)
        return line.decode()

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in {"running", "degraded"}

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, with nothing of our environment."""
        command = [*self._enter(), *map(str, argv)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            pytest.fail(f"{shlex.join(map(str, argv))} gave {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script inside and return what it printed."""
        return self.run("sh", "-c", script, check=check).stdout

    def _enter(self) -> list[str]:
        # -C: without it, a process inside would see this machine's control groups.
        return shlex.split(f"nsenter -t {self.init} -m -u -i -n -p -C -r -w env -i HOME=/root PATH={PATH}")

    def write(self, path: str, text: str) -> None:
        """Write a file inside, with its directories."""
        inside = Path(f"/proc/{self.init}/root{path}")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run systemctl inside."""
        return self.run("systemctl", *words, check=check)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.systemctl("show", unit, "-p", ",".join(properties)).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def eventually(self, condition: Callable[[], Any], what: str, within: float = 10) -> Any:
        """Wait until a condition holds and return its value; the test fails when the time is up."""
        deadline = time.monotonic() + within
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within} s: {what}")
            time.sleep(0.05)  # a pause between two looks, not a guess of how long it takes
        return value

    def close(self) -> None:
        """End the machine and everything in it. Raises when something of it is left."""
        if self._boot.stdin and not self._boot.stdin.closed:
            self._boot.stdin.close()
        try:
            self._boot.wait(30)
        except subprocess.TimeoutExpired:
            self._boot.kill()
            self._boot.wait()
        # Its own sweep, should it have been killed itself.
        sweep = f"find {self.cgroup} -depth -type d -exec rmdir {{}} +"
        subprocess.run(shlex.split(sweep), capture_output=True, check=False)
        assert not self.cgroup.exists(), f"{self.cgroup} is left; boot.sh said:\n{self.log.read_text(errors='replace')}"


class Service:
    """ccexecd.service inside a machine, from a clean start of one test to its end."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._cursor = (
            machine.sh("journalctl --sync; journalctl -q -n 1 --show-cursor").rsplit("-- cursor: ", 1)[-1].strip()
        )

    @property
    def main(self) -> int:
        """The main process, in the machine's numbers; 0 when there is none."""
        return int(self.machine.show("ccexecd", "MainPID")["MainPID"])

    def journal(self) -> str:
        """What the daemon and systemd wrote about it since this test began."""
        return self.machine.sh(
            f"journalctl --sync; journalctl -q --no-pager -u ccexecd -o cat --after-cursor {shlex.quote(self._cursor)}"
        )

    def ctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ccexecctl as root inside."""
        return self.machine.run("ccexecctl", *words, check=check)

    def ask(self, *words: str) -> Any:
        """What `ccexecctl --json` answers."""
        return json.loads(self.ctl(*words, "--json").stdout)

    def configure(self, text: str) -> None:
        """Write /etc/ccexecd/ccexecd.toml."""
        self.machine.write("/etc/ccexecd/ccexecd.toml", text)

    def drop_in(self, text: str) -> None:
        """Override settings of the unit for this test."""
        self.machine.write("/run/systemd/system/ccexecd.service.d/test.conf", text)
        self.machine.systemctl("daemon-reload")

    def install_drop_in(self, name: str) -> None:
        """Install one of contrib/systemd/ccexecd.service.d/."""
        text = (UNITS / "ccexecd.service.d" / name).read_text()
        self.machine.write(f"/etc/systemd/system/ccexecd.service.d/{name}", text)
        self.machine.systemctl("daemon-reload")

    def is_up(self) -> bool:
        """Whether systemd says that it runs: it has said that it is ready."""
        return self.machine.show("ccexecd", "SubState") == {"SubState": "running"}

    @staticmethod
    def readme(heading: str) -> str:
        """Commands of contrib/systemd/README.md."""
        return readme_commands(heading)

    def reset(self) -> None:
        """Bring the unit back to installed and stopped, without any trace of a test."""
        self.machine.sh(
            "systemctl kill --signal=KILL --kill-whom=all ccexecd 2>&1; systemctl stop ccexecd 2>&1;"
            "systemctl reset-failed ccexecd 2>&1;"
            "rm -rf /run/systemd/system/ccexecd.service.d /etc/systemd/system/ccexecd.service.d;"
            "rm -rf /etc/ccexecd /var/lib/ccexecd;"
            "systemctl daemon-reload",
            check=False,
        )


def readme_commands(heading: str) -> str:
    """The first block of shell commands below a heading of contrib/systemd/README.md."""
    text = (UNITS / "README.md").read_text()
    found = re.search(rf"^## {re.escape(heading)}$.*?^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no commands below {heading!r}"
    return found[1]


def _cgroup2_mount() -> str | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)


def missing() -> str | None:
    """What this machine lacks for a boot; None when it has everything."""
    if os.geteuid() != 0:
        return "only root can boot a systemd in namespaces"
    if not any(os.access(path, os.X_OK) for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")):
        return "systemd is not installed (.ci/packages installs it)"
    mount = _cgroup2_mount()
    if mount is None or not os.access(mount, os.W_OK):
        return f"no writable cgroup2 hierarchy ({mount or 'none is mounted'})"
    unshare = shlex.split("unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -c")
    probe = subprocess.run([*unshare, OVERLAY_PROBE], capture_output=True, text=True, timeout=30, check=False)
    return f"no namespaces or no overlay of the root: {probe.stderr.strip()}" if probe.returncode else None
