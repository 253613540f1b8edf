"""The units in contrib/systemd, as far as they can be checked without booting (that is in tests/e2e/systemd)."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ccexecctl import arguments
from ccexecd import __main__ as daemon_program
from ccexecd import paths
from ccexecd.config import Config
from ccexecd.external.door import FLUSH
from ccexecd.process.supervisor import LINGER, STRAGGLER_GRACE, VERIFY_PATIENCE

CHECKOUT = Path(__file__).parents[1]
FOLDER = CHECKOUT / "contrib" / "systemd"
SYSTEM = FOLDER / "ccexecd.service"
USER = FOLDER / "user" / "ccexecd.service"
DROP_INS = sorted((FOLDER / "ccexecd.service.d").glob("*.conf"))

MARGIN = 5.0
"""Seconds for what has no bound of its own: the scheduler of a busy machine, the interpreter's exit."""

both = pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])


def settings(unit: Path, section: str = "Service") -> dict[str, str]:
    """The assignments of one section; a duplicate is an error."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(unit.read_text())
    return dict(parser[section])


def console_scripts() -> dict[str, str]:
    """The programs that an installation provides."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(CHECKOUT / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


@both
def test_systemd_supervises_and_the_daemon_notifies(unit):
    """The daemon stays in the foreground, says itself when it is ready and that it lives, and is started again."""
    service = settings(unit)
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["Restart"] == "on-failure"
    assert "--foreground" in shlex.split(service["ExecStart"])
    assert not {"PIDFile", "GuessMainPID"} & service.keys()
    assert float(service["WatchdogSec"]) >= 10


@both
def test_only_the_daemon_is_told_to_stop(unit):
    """TERM is for the daemon alone, and the control groups below its own are not systemd's."""
    service = settings(unit)
    assert service["KillMode"] == "mixed"
    assert service["Delegate"] == "yes"
    assert service["OOMPolicy"] == "continue"
    assert service.get("SendSIGKILL", "yes") == "yes"


@both
def test_a_stop_has_time_for_everything_that_it_waits_for(unit):
    """TimeoutStopSec is longer than the longest end of an execution with the default grace, and of the connections."""
    forced = Config().process_cleanup_timeout + VERIFY_PATIENCE + LINGER
    stragglers = LINGER + STRAGGLER_GRACE + VERIFY_PATIENCE + LINGER
    farewell = 2 * FLUSH
    assert float(settings(unit)["TimeoutStopSec"]) > max(forced, stragglers) + farewell + MARGIN


@both
def test_the_programs_exist_and_know_their_words(unit):
    """ExecStart and ExecReload are console scripts of this package, with options and verbs that they understand."""
    service = settings(unit)
    start, *flags = shlex.split(service["ExecStart"])
    reload, *words = shlex.split(service["ExecReload"])
    assert {Path(start).name, Path(reload).name} == console_scripts().keys()
    assert Path(start).parent == Path(reload).parent
    assert daemon_program._parser().parse_args(flags).foreground is True
    assert arguments.parse(words).verb == "reload"


@both
def test_a_reload_asks_this_daemon(unit):
    """ExecReload names the control socket that the daemon of this unit binds: it can never reach another one."""
    socket = arguments.parse(shlex.split(settings(unit)["ExecReload"])[1:]).socket
    environ, runtime = (
        ({"RUNTIME_DIRECTORY": "/run/ccexecd"}, "/run") if unit == SYSTEM else ({"XDG_RUNTIME_DIR": "/t"}, "/t")
    )
    places = paths.default_places(environ | {"HOME": "/home/someone"}, uid=1000)
    assert socket.replace("%t", runtime) == str(places.control_socket)


def test_directories_are_where_the_daemon_looks_for_them():
    """systemd makes the directories that the daemon looks for, under their name, and nobody else reads them."""
    service = settings(SYSTEM)
    for kind in ("Runtime", "State", "Logs"):
        assert service[f"{kind}Directory"] == paths.NAME
        assert service[f"{kind}DirectoryMode"] == "0750"
    assert service["ConfigurationDirectory"] == paths.NAME


def test_the_account_is_the_one_that_is_installed():
    """The unit runs as the account that ccexecd.sysusers makes, whose home is the state directory."""
    service = settings(SYSTEM)
    kind, name, _, _, home = shlex.split((FOLDER / "ccexecd.sysusers").read_text().splitlines()[-1])
    assert (kind, name) == ("u", service["User"])
    assert service["Group"] == service["User"]
    assert home == f"/var/lib/{service['StateDirectory']}"


def test_the_users_unit_does_not_differ_without_reason():
    """Both units treat the daemon alike; only directories, account, limits and hardening are the machine's alone."""
    system, user = settings(SYSTEM), settings(USER)
    shared = {key: value for key, value in user.items() if not key.startswith("Exec")}
    assert shared == {key: system[key] for key in shared}
    assert settings(SYSTEM, "Unit").items() >= settings(USER, "Unit").items()


def test_the_environment_file_names_real_keys():
    """Every setting that ccexecd.default suggests is one that the daemon knows."""
    suggested = re.findall(r"^#CCEXECD_(\w+)=", (FOLDER / "ccexecd.default").read_text(), re.MULTILINE)
    assert suggested
    assert {name.lower() for name in suggested} <= Config().as_public_dict().keys()


def test_the_readme_is_true():
    """The README names every file, and what it says is left out is left out."""
    text = (FOLDER / "README.md").read_text()
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [path.name for path in files if path.name not in text] == []
    table = text.split("| left out |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    left_out = set(re.findall(r"`(\w+)(?:=\w+)?`", " ".join(rows)))
    assert "RestrictNamespaces" in left_out
    assert left_out & settings(SYSTEM).keys() == {"ProtectSystem"}  # =full there, =strict is what is left out


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.name if path else "alone")
def test_systemd_understands_the_unit(tmp_path, drop_in):
    """`systemd-analyze verify` has nothing to say against the unit, alone and with each drop-in."""
    verify(SYSTEM, tmp_path, drop_in)


def test_systemd_understands_the_users_unit(tmp_path):
    """`systemd-analyze --user verify` has nothing to say against it."""
    verify(USER, tmp_path, None, "--user")


def verify(unit: Path, tmp_path: Path, drop_in: Path | None, *flags: str) -> None:
    """Have systemd read a copy of a unit whose programs exist."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (.ci/packages installs it)")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"(?<==)[^ =]*/bin/ccexec\w+", "/bin/true", unit.read_text()))
    if drop_in:
        (tmp_path / f"{unit.name}.d").mkdir()
        shutil.copy(drop_in, tmp_path / f"{unit.name}.d")
    command = ["systemd-analyze", *flags, "--man=no", "verify", str(copy)]
    said = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_systemd_understands_the_account(tmp_path):
    """`systemd-sysusers` makes an account that cannot log in and that has the state directory as its home."""
    if not shutil.which("systemd-sysusers"):
        pytest.skip("systemd-sysusers is not installed (.ci/packages installs it)")
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", FOLDER / "ccexecd.sysusers"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    [account] = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines() if "ccexecd" in line]
    assert account[0] == "ccexecd"
    assert account[5:] == ["/var/lib/ccexecd", "/usr/sbin/nologin"]
