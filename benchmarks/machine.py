"""The machine and the versions that figures belong to, and whether the machine has time for them.

Names no host, user or path: results are published.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from processes import machine_jiffies
from targets import PEERS, Target

OF_CCEXECD = ("trio", "trio-websocket", "wsproto", "h11", "orjson", "attrs", "cattrs", "psutil")
OF_CLIENT = ("picows", "uvloop", "orjson")

_ROOT = Path(__file__).resolve().parent.parent
_SAMPLE_SECONDS = 0.5


def describe(program: Path, targets: Sequence[Target]) -> dict[str, str]:
    """Machine, system and versions, by what they are called in the results.

    Args:
        program: `ccexecd`.
        targets: what is measured; ccexecd first.
    """
    ours, *peers = targets
    facts = {
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        ours.name: f"{_ccexecd(program)}; {ours.about}",
        "client": f"Python {platform.python_version()}, {_packages(OF_CLIENT)}",
    }
    for peer in peers:
        versions = _node() if peer.name.startswith("node") else _python_peer(peer.name)
        facts[peer.name] = f"{versions}; {peer.about}"
    return facts


def wait_for_quiet(threshold: float, patience: float) -> float:
    """Wait until others leave the machine alone.

    Args:
        threshold: share of the processors that they may use.
        patience: seconds after which the wait ends anyhow.

    Returns:
        The share that they used in the last half second.
    """
    until = time.monotonic() + patience
    while (busy := _busy_share()) > threshold and time.monotonic() < until:
        pass
    return busy


def _busy_share() -> float:
    total, idle = machine_jiffies()
    time.sleep(_SAMPLE_SECONDS)
    total_then, idle_then = machine_jiffies()
    return 1 - (idle_then - idle) / max(1, total_then - total)


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _ccexecd(program: Path) -> str:
    """Its version and commit, and the versions that its own environment holds."""
    script = f"""
import json, platform
from importlib import metadata
print(json.dumps([platform.python_version(), {{name: metadata.version(name) for name in {OF_CCEXECD!r}}}]))
"""
    answer = subprocess.run([program.with_name("python"), "-c", script], capture_output=True, text=True, check=True)
    python, versions = json.loads(answer.stdout)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{version}{_commit()}, Python {python}, {libraries}"


def _commit() -> str:
    if shutil.which("git") is None:
        return ""
    words = ["git", "-C", _ROOT, "describe", "--always", "--dirty", "--exclude=*"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return f" ({answer.stdout.strip()})" if answer.returncode == 0 else ""


def _node() -> str:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    package = json.loads((PEERS / "node_modules" / "ws" / "package.json").read_text())
    return f"Node {version.removeprefix('v')}, ws {package['version']}"


def _python_peer(name: str) -> str:
    packages = ["websockets", "uvloop"] if name.endswith("uvloop") else ["websockets"]
    return f"Python {platform.python_version()}, {_packages(packages)}"


def _packages(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)
