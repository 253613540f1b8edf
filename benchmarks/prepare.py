"""What must be there before anything is measured: the client's packages, ccexecd, the ticker, descriptors.

Installs nothing: what is missing is named, with the command that brings it. Standard library only.
"""

import importlib.util
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

CLIENT_PACKAGES = ("picows", "uvloop", "orjson")


class MissingError(Exception):
    """Something is not there; the text says what, and what to do."""


def need_client() -> None:
    """Check that the packages of the client can be imported.

    Raises:
        MissingError: one cannot.
    """
    missing = [name for name in CLIENT_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        python = Path(sys.executable).name
        raise MissingError(f"the client: no {', '.join(missing)}; run: {python} -m pip install {' '.join(missing)}")


def find_ccexecd(path: Path | None) -> Path:
    """Find the program to measure, with its Python and ccexecctl beside it.

    Args:
        path: `ccexecd` in the environment it is installed into; None means the environment that runs this.

    Raises:
        MissingError: it is not there.
    """
    program = path.absolute() if path else Path(sys.executable).with_name("ccexecd")
    for needed in (program, program.with_name("ccexecctl"), program.with_name("python")):
        if not needed.exists():
            raise MissingError(
                f"ccexecd: there is no {needed.name} in {needed.parent}; install the project into this environment "
                "(pip install .), or name its program with --ccexecd"
            )
    return program


def make_ticker(work: Path) -> str:
    """Compile the ticker, or take the slower one in Python.

    Args:
        work: where the program is put.

    Returns:
        The shell words that run it.
    """
    if shutil.which("cc") is None:
        print("no C compiler (cc): the ticker runs in Python, M4 and M8 are coarser", file=sys.stderr)
        return shlex.join([sys.executable, "-S", str(HERE / "ticker.py")])
    program = work / "ticker"
    subprocess.run(["cc", "-O2", "-o", program, HERE / "ticker.c"], check=True)
    return shlex.quote(str(program))


def allow_descriptors() -> None:
    """Allow ourselves, and with us every server alike, as many descriptors as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
