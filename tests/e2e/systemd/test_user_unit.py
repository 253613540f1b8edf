"""contrib/systemd/user/ccexecd.service: a daemon of one user, under that user's own systemd."""

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

UNIT = Path(__file__).parents[3] / "contrib" / "systemd" / "user" / "ccexecd.service"
HOME = "/home/visitor"


@pytest.fixture
def visitor(machine):
    """Run a script as a user of the machine whose systemd runs; that user's venv is the machine's."""
    if machine.run("test", "-e", "/usr/share/doc/libpam-systemd", check=False).returncode:
        pytest.skip("libpam-systemd is not installed (.ci/packages installs it)")
    machine.sh("useradd --create-home --shell /bin/sh visitor && loginctl enable-linger visitor")
    machine.write(f"{HOME}/.config/systemd/user/ccexecd.service", UNIT.read_text())
    machine.sh(
        f"mkdir -p {HOME}/.local/share; ln -s /opt/ccexecd {HOME}/.local/share/ccexecd; chown -R visitor: {HOME}"
    )
    runtime = f"/run/user/{machine.sh('id -u visitor').strip()}"
    machine.eventually(
        lambda: machine.sh(f"ls {runtime}/systemd/private 2>&1 || :").startswith("/run"), "systemd --user runs"
    )

    def run(script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        environ = f"HOME={HOME} XDG_RUNTIME_DIR={runtime} PATH={HOME}/.local/share/ccexecd/bin:/usr/bin:/bin"
        return machine.run(*f"runuser -u visitor -- env --chdir={HOME} {environ} sh -c".split(), script, check=check)

    yield run
    machine.sh("loginctl disable-linger visitor; systemctl stop user@$(id -u visitor); userdel --remove visitor 2>&1")


def test_a_users_daemon_starts_reloads_and_stops(machine, visitor):
    """`systemctl --user` starts, reloads and stops it; ccexecctl finds it by itself; nothing is left after the stop."""
    visitor("systemctl --user daemon-reload && systemctl --user enable --now ccexecd")
    status = json.loads(visitor("ccexecctl status --json").stdout)
    assert visitor("systemctl --user show ccexecd -p MainPID --value").stdout.strip() == str(status["pid"])
    assert status["state_dir"] == f"{HOME}/.local/state/ccexecd"
    assert visitor("ccexecctl run -- id -un").stdout == "visitor\n"

    visitor("mkdir -p ~/.config/ccexecd && echo max_sessions = 7 > ~/.config/ccexecd/ccexecd.toml")
    visitor("systemctl --user reload ccexecd")
    assert json.loads(visitor("ccexecctl status --json").stdout)["max_sessions"] == 7
    visitor("echo max_sesions = 7 > ~/.config/ccexecd/ccexecd.toml")
    assert visitor("systemctl --user reload ccexecd", check=False).returncode == 1
    assert json.loads(visitor("ccexecctl status --json").stdout)["max_sessions"] == 7

    visitor("ccexecctl run --detach -- sh -c 'setsid sleep 1004 & sleep 1005'")
    machine.eventually(lambda: machine.sh("pgrep -xc sleep || :").strip() == "2", "both processes of the command run")
    visitor("systemctl --user stop ccexecd")
    assert machine.run("pgrep", "-x", "sleep", check=False).stdout == ""
