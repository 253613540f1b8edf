"""The house itself: who imports whom, what is said about everything, how large it gets, and what it is called.

Read from the source, as text: a rule that is broken is named with the file that breaks it. A new room, module or
exception needs a row in a table here, and so a reason.
"""

import ast
import configparser
import importlib.metadata
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import attrs
import pytest

from ccexecd.control.methods import operator_methods
from ccexecd.core.execution import TRANSITIONS, Event, IllegalTransitionError, State
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.protocol import messages
from ccexecd.service.methods import EXECUTION_METHODS

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path.relative_to(ROOT) for package in ("ccexecd", "ccexecctl") for path in (ROOT / package).rglob("*.py")
)
MODULES = [path for path in SOURCES if path.name != "__init__.py"]

each_source = pytest.mark.parametrize("path", SOURCES, ids=str)


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed source."""
    return ast.parse((ROOT / path).read_text())


class Import(NamedTuple):
    """One import: what is imported, and whether it happens when the module is imported."""

    name: str
    at_start: bool


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a source; of our own, down to the module that is meant."""
    found = []
    late = {
        id(inner)
        for outer in ast.walk(tree_of(path))
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree_of(path)):
        at_start = id(node) not in late
        if isinstance(node, ast.Import):
            found += [Import(alias.name, at_start) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            found += [Import(_meant(node.module or "", alias.name), at_start) for alias in node.names]
    return tuple(found)


def _meant(module: str, name: str) -> str:
    """`from ccexecd.core import policy` means the module, `from ccexecd import __version__` the package."""
    inside = ROOT / module.replace(".", "/") / name
    return f"{module}.{name}" if inside.is_dir() or inside.with_suffix(".py").is_file() else module


def unit_of(name: str) -> str:
    """The room, or the module of the hall, that a module of ccexecd is in: `protocol`, `engine`; "" is the package."""
    return [*name.split("."), ""][1]


def module_name(path: Path) -> str:
    """What the module is imported as."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def third_party(name: str) -> bool:
    """Whether a module is neither ours nor Python's."""
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in {"ccexecd", "ccexecctl"}


# Who may import whom

DOOR = {"fairness", "service", "protocol", "core", "engine", "judgement", "config", "paths"}
HALL = {"config", "paths", "logs", "pidfile", "systemd", "detach", "keys"}

MAY_IMPORT = {
    "protocol": set(),
    "core": set(),
    "agents": {"protocol", "core"},
    "process": {"core", "fairness", "sparse", "threads"},
    "storage": {"core", "sparse", "threads"},
    "service": {"protocol", "core", "process", "engine", "estimates", "records", "config"},
    "external": {*DOOR, "threads"},
    "control": DOOR,
    "hooks": {"core", "operator_file", "process", "protocol"},
    "preparation": {"admission", "core", "process"},
    "session": {"core", "keys", "process", "storage"},
    "waiting": {"core", "process", "protocol"},
    "records": {"core", "estimates", "process", "storage", "config", "threads", "waiting"},
    "held": {"admission", "core", "process", "session", "waiting"},
    "launching": {"agents", "config", "core", "process"},
    "judgement": {"core", "keys", "process"},
    "admission": {"judgement", "core", "keys", "process", "storage"},
    "idempotency": {"admission", "core", "process", "storage"},
    "turns": {"admission", "core", "keys", "process", "session"},
    "agent_listener": {"agents", "core", "process"},
    "agent_detection": {"agent_listener", "agents", "process"},
    "estimates": {"core", "keys", "process", "storage", "threads"},
    "engine": {
        "agent_detection",
        "turns",
        "held",
        "launching",
        "idempotency",
        "preparation",
        "budget",
        "admission",
        "core",
        "agents",
        "process",
        "storage",
        "config",
        "session",
        "records",
    },
    "reports": {"engine", "external", "process", "service", "storage", *HALL},
    "daemon": {
        "engine",
        "reports",
        "hooks",
        "budget",
        "core",
        "process",
        "storage",
        "records",
        "protocol",
        "service",
        "external",
        "control",
        *HALL,
    },
    "__main__": {"daemon", *HALL},
    "config": {"key_values", "keys", "paths", "protocol", "core", "operator_file", "policy_file", "hooks"},
    "policy_file": {"core", "operator_file", "protocol"},
    "operator_file": {"protocol"},
    "budget": {"keys"},
    "detach": {"logs", "pidfile"},
    "fairness": set(),
    "key_values": {"keys", "protocol"},
    "keys": set(),
    "logs": {"core"},
    "paths": set(),
    "pidfile": set(),
    "sparse": set(),
    "threads": set(),
    "systemd": set(),
}
"""Room or module of ccexecd -> what of ours it may import besides itself and the version."""

PURE = {"protocol", "core", "agents"}
NOT_PURE = {
    "trio",
    "anyio",
    "asyncio",
    "os",
    "socket",
    "select",
    "time",
    "datetime",
    "logging",
    "subprocess",
    "threading",
}
"""What has no place in a pure room: no I/O, no clock, no event loop."""

PURE_THIRD_PARTY = {"attrs", "cattrs", "orjson"}

ONLY_IN = {
    "trio_websocket": {"ccexecd/external/websocket.py"},
    "daemon": {"ccexecd/detach.py"},
    "psutil": {"ccexecd/process/measure.py"},
    "h11": {"ccexecd/external/wire.py", "ccexecd/external/request.py"},
    "cattrs": {"ccexecd/protocol/codec.py"},
    "prometheus_client": {"ccexecd/external/metrics.py"},
    "cryptography": {"ccexecd/storage/signing.py"},
    "wsproto": {"ccexecctl/api/framing.py"},
    "json_repair": {"ccexecctl/api/json_reply.py"},
    "jsonschema": {"ccexecctl/api/json_reply.py"},
    "markdown_it": {"ccexecctl/api/task_file.py"},
    "redis": {"ccexecd/storage/shared_timings.py"},
}
"""Third-party package -> the sources that know it."""

STDLIB_ONLY = {
    "ccexecd/__init__.py": "imported by everybody",
    "ccexecd/paths.py": "shared with ccexecctl",
    "ccexecd/pidfile.py": "shared with ccexecctl",
    "ccexecd/systemd.py": "READY must not wait for an import",
    "ccexecd/protocol/errors.py": "shared with ccexecctl",
    "ccexecd/protocol/framing.py": "shared with ccexecctl",
    "ccexecd/storage/chain.py": "shared with ccexecctl",
    "ccexecd/hooks/entry.py": "a process of its own, for every call",
    "ccexecd/storage/digests.py": "shared with ccexecctl",
    "ccexecd/storage/plain_file.py": "shared with ccexecctl",
    "ccexecd/storage/proof.py": "shared with ccexecctl",
    "ccexecd/core/evidence.py": "shared with ccexecctl",
    "ccexecd/process/keeper.py": "a small process of its own that outlives the daemon",
    "ccexecd/process/containment.py": "the keeper's",
}

SHARED_WITH_CTL = {"ccexecd", "ccexecd.paths", "ccexecd.pidfile", "ccexecd.protocol.errors", "ccexecd.protocol.framing"}
HEAVY = {
    "trio",
    "trio_websocket",
    "attr",
    "attrs",
    "cattrs",
    "orjson",
    "psutil",
    "h11",
    "daemon",
    "asyncio",
    "prometheus_client",
    "cryptography",
    "anyio",
    "wsproto",
    "jsonschema",
    "json_repair",
    "markdown_it",
}

API_IMPORTS = {"ccexecd.agents", "ccexecd.protocol.errors", "ccexecd.protocol.framing"}
"""What of the daemon the Python API imports: pure rooms and leaves."""

IN_API = [path for path in SOURCES if path.parts[:2] == ("ccexecctl", "api")]
IN_TOOL = [path for path in SOURCES if path.parts[0] == "ccexecctl" and path not in IN_API]


@each_source
def test_imports_point_in_the_documented_direction(path):
    """Each room imports the rooms below it and no other; the two doors do not know each other."""
    own = unit_of(module_name(path)) if path.parts[0] == "ccexecd" else ""
    if not own:
        return
    imported = {unit_of(each.name) for each in imports_of(path) if each.name.partition(".")[0] == "ccexecd"}
    assert own in MAY_IMPORT, f"{own} needs a row in MAY_IMPORT"
    assert imported - {own, ""} <= MAY_IMPORT[own]


@each_source
def test_nothing_of_the_daemon_imports_the_tool(path):
    """ccexecctl depends on ccexecd, never the other way round."""
    if path.parts[0] == "ccexecd":
        assert not [each for each in imports_of(path) if each.name.startswith("ccexecctl")]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[1] in PURE], ids=str)
def test_pure_rooms_are_pure(path):
    """What is on the wire and what happens next is decided without I/O, clock or event loop."""
    tops = {each.name.partition(".")[0] for each in imports_of(path)}
    assert not tops & NOT_PURE
    assert {top for top in tops if third_party(top)} <= PURE_THIRD_PARTY


def test_what_is_declared_is_what_is_imported():
    """Nothing is needed that an installation would not bring along, and nothing is brought along that nobody needs."""
    declared = configparser.ConfigParser(inline_comment_prefixes="#")
    declared.read(ROOT / "setup.cfg")
    extras = [each for name, each in declared["options.extras_require"].items() if name != "test"]
    requirements = "\n".join([declared["options"]["install_requires"], *extras]).split("\n")
    named = {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0] for line in requirements if line.strip()}
    of = importlib.metadata.packages_distributions()
    imported = {each.name.partition(".")[0] for path in SOURCES for each in imports_of(path) if third_party(each.name)}
    brought = {name.lower().replace("_", "-") for top in imported for name in of.get(top, [f"{top}: not installed"])}
    assert brought == named


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_what_a_security_rule_lets_pass_has_a_reason(path):
    """ruff's rules of flake8-bandit (S) are in force; where one does not fit, the line says why."""
    for line in (ROOT / path).read_text().splitlines():
        _, excepted, rest = line.partition("# noqa: ")
        rules, _, reason = rest.partition("  # ")
        if excepted and re.search(r"\bS[0-9]{3}\b", rules):
            assert len(reason) > 5, line


@each_source
def test_a_dependency_is_known_in_its_place_only(path):
    """What replaces a dependency one day is one file."""
    for top in {each.name.partition(".")[0] for each in imports_of(path)} & ONLY_IN.keys():
        assert str(path) in ONLY_IN[top], f"{path} must not know {top}"


@pytest.mark.parametrize("path", STDLIB_ONLY)
def test_these_need_nothing_but_python(path):
    """They are imported where a dependency costs too much."""
    assert not [each.name for each in imports_of(Path(path)) if third_party(each.name)]


@pytest.mark.parametrize("path", IN_TOOL, ids=str)
def test_the_tool_shares_leaves_only(path):
    """At start-up, ccexecctl imports the small modules that are made to be shared, and no dependency ever."""
    for each in imports_of(path):
        assert each.name.partition(".")[0] not in HEAVY
        if each.at_start and each.name.partition(".")[0] == "ccexecd":
            assert each.name in SHARED_WITH_CTL


@pytest.mark.parametrize("path", IN_API, ids=str)
def test_the_python_api_is_a_client(path):
    """It knows the wire and what agents say, and nothing of how the daemon works; no event loop but through anyio."""
    for each in imports_of(path):
        assert each.name.partition(".")[0] not in {"trio", "asyncio", "trio_websocket"}
        if each.name.partition(".")[0] == "ccexecd":
            assert each.name.startswith(tuple(API_IMPORTS))
        if each.name in {"json_repair", "jsonschema", "markdown_it"}:
            assert not each.at_start, "paid by who needs it"


def run_isolated(program: str, *flags: str) -> list[str]:
    """The words that a program prints, in a process that has imported nothing yet."""
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def test_the_tool_loads_nothing_heavy():
    """All of its modules together load no dependency: that is what keeps a verb under 50 ms of CPU."""
    names = [module_name(path) for path in IN_TOOL if path.stem != "__main__"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    # -S: no site-packages, whose start-up hooks (an editable install, coverage) import things of their own.
    assert not HEAVY & set(run_isolated(program, "-S"))


def test_importing_does_nothing():
    """Importing every module of the daemon starts no thread, opens no file, takes no signal and configures no log."""
    names = [module_name(path) for path in SOURCES if path.parts[0] == "ccexecd" and path.stem != "__main__"]
    program = f"""
import logging, os, signal, sys, threading
def state():
    return (
        threading.active_count(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), os.getcwd(),
        [str(signal.getsignal(each)) for each in signal.valid_signals()], logging.root.handlers, logging.root.level,
        os.environ.copy(), [name for name in logging.root.manager.loggerDict if name.startswith("ccexec") and
        logging.getLogger(name).handlers],
    )
import trio, trio_websocket, psutil, daemon, orjson, cattrs, h11
before = state()
import {", ".join(names)}
print(state() == before)
"""
    assert run_isolated(program) == ["True"]


# What is said


def definitions(path: Path) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every class, function and method that is not inside of a function, with its qualified name."""
    open_: list[tuple[str, ast.AST]] = [("", tree_of(path))]
    while open_:
        prefix, outer = open_.pop()
        for node in ast.iter_child_nodes(outer):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name, node
            if isinstance(node, ast.ClassDef | ast.If | ast.Try):
                open_.append((f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix, node))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, wherever it is."""
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@each_source
def test_every_module_says_what_it_owns(path):
    """A newcomer opens a file and reads first what it is for."""
    assert ast.get_docstring(tree_of(path))


@each_source
def test_everything_public_is_documented(path):
    """Every public class, function and method has a docstring."""
    silent = [
        name
        for name, node in definitions(path)
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(node)
    ]
    assert not silent


TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_every_test_states_its_guarantee(path):
    """A test's docstring is what it guarantees; a test file's what it is about."""
    assert ast.get_docstring(tree_of(path))
    assert not [each.name for each in functions(path) if each.name.startswith("test_") and not ast.get_docstring(each)]


MAP = (ROOT / "ARCHITECTURE.md").read_text().partition("## The map")[2].partition("Who may import whom")[0]
"""Where ARCHITECTURE.md says what lies where: a row for each module of ccexecd, a section for each package."""


def on_the_map(package):
    """The names in a package's section, which ends where the next row begins that is no further in."""
    section = re.search(rf"^( *){package}/.*\n((?:\1 +.*\n)*)", MAP, re.MULTILINE)
    return set(re.findall(r"\w+", section[0])) if section else set()


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "commands"], ids=str)
def test_every_module_is_on_the_map(path):
    """Whoever looks for what a file is for finds it where its package is."""
    if path.stem != "__main__":
        assert path.stem in on_the_map(path.parent.name)


DECISIONS = ROOT / "docs" / "decisions"


def test_every_decision_is_in_the_index():
    """The index lists every page once, in order of the numbers, under the page's own title and number."""
    pages = [(page.name, page.read_text().partition("\n")[0]) for page in sorted(DECISIONS.glob("[0-9]*.md"))]
    listed = re.findall(r"^(\d+\. )\[(.+)\]\((\S+)\)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert [(name, f"# {number}{title}") for number, title, name in listed] == pages
    assert all(title.startswith(f"# {int(name[:4])}. ") for name, title in pages)
    assert len({name[:4] for name, _ in pages}) == len(pages)


# How large it gets


@each_source
def test_no_module_is_too_long(path):
    """Past 400 lines, a module is two."""
    assert len((ROOT / path).read_text().splitlines()) <= 400


@each_source
def test_no_function_is_too_long(path):
    """Past 50 lines, nobody sees a function at a glance."""
    assert not [each.name for each in functions(path) if (each.end_lineno or 0) - each.lineno >= 50]


# What it is called

FORBIDDEN = {"manager", "handler", "helper", "helpers", "util", "utils", "common", "misc", "info", "data", "worker"}
"""Words that fit anything, and so say nothing of what a thing does."""

FORBIDDEN_AT_END = {"v1", "v2", "v3", "new", "old", "final", "backup"}
"""Words that are git's."""

FORBIDDEN_BUT = {"_LineHandler": "the standard library calls its log outputs handlers, and this is one"}


@each_source
def test_names_say_what_a_thing_does(path):
    """No module, class or function has a word in its name that fits anything."""
    names = {path.stem, *path.parts[:-1], *(name.rpartition(".")[2] for name, _ in definitions(path))}
    for name in names - FORBIDDEN_BUT.keys():
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]
        assert not FORBIDDEN & set(words), name
        assert not FORBIDDEN_AT_END & set(words[-1:]), name


# What is caught

BARRIERS = {
    ("ccexecd/external/http.py", "serve_connection"): "connection",
    (
        "ccexecd/external/websocket.py",
        "_Guard._run",
    ): "connection: the reader of a WebSocket, which must not take it along",
    ("ccexecd/control/connection.py", "serve"): "connection",
    ("ccexecd/service/dispatch.py", "Dispatcher._barrier"): "request",
    ("ccexecd/engine.py", "Engine._run_execution"): "execution",
}
"""Where everything unexpected is caught: logged, converted, and the rest goes on. Cancellation passes."""


def catches(node: ast.AST) -> set[str]:
    """The broad exceptions that a handler names; a bare one is BaseException."""
    if not isinstance(node, ast.ExceptHandler):
        return set()
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return {each.id if isinstance(each, ast.Name) else "" for each in kinds} & {"Exception"} | (
        {"BaseException"}
        if any(each is None or getattr(each, "id", "") == "BaseException" for each in kinds)
        else set()
    )


def test_everything_is_caught_at_the_barriers_only():
    """`except Exception` stands where the table says, and nowhere else."""
    found = {
        (str(path), name)
        for path in SOURCES
        for name, node in definitions(path)
        if not isinstance(node, ast.ClassDef) and any("Exception" in catches(inner) for inner in ast.walk(node))
    }
    assert found == BARRIERS.keys()


@each_source
def test_what_catches_everything_raises_it_again(path):
    """`except BaseException` only cleans up: cancellation and exit go on."""
    for node in ast.walk(tree_of(path)):
        if "BaseException" in catches(node):
            assert isinstance(node, ast.ExceptHandler)
            assert isinstance(node.body[-1], ast.Raise), f"line {node.lineno}"


# Tests mirror the source

ELSEWHERE = {
    "ccexecd/agent_detection.py": ("tests/test_agent_listener.py", "what it chooses is that"),
    "ccexecd/agents/claude.py": ("tests/agents/test_recorded_runs.py", "what is recorded is its own"),
    "ccexecd/agents/codex.py": ("tests/agents/test_adapter.py", "beside the other agents, by one table each"),
    "ccexecd/agents/conversation.py": ("tests/agents/test_recorded_runs.py", "what recorded events add up to"),
    "ccexecd/agents/events.py": ("tests/agents/test_adapter.py", "records, and what is taken for which"),
    "ccexecd/agents/gemini.py": ("tests/agents/test_adapter.py", "beside the other agents, by one table each"),
    "ccexecd/agents/recognition.py": ("tests/agents/test_adapter.py", "beside the other agents, by one table each"),
    "ccexecctl/__main__.py": ("tests/ctl/test_help.py", "every test of a verb goes through it"),
    "ccexecctl/api/backoff.py": ("tests/api/test_framing.py", "how long a connection is waited for"),
    "ccexecctl/api/client.py": ("tests/e2e/test_api_link.py", "against a real daemon, through real cuts"),
    "ccexecctl/api/execute.py": ("tests/e2e/test_api.py", "with real agents under a real daemon"),
    "ccexecctl/api/link.py": ("tests/e2e/test_api_link.py", "against a real daemon, through real cuts"),
    "ccexecctl/api/options.py": ("tests/api/test_command_line.py", "what they become"),
    "ccexecctl/api/reports.py": ("tests/e2e/test_api.py", "what real agents are told to have done"),
    "ccexecctl/api/results.py": ("tests/e2e/test_api.py", "what real agents come to"),
    "ccexecctl/api/run.py": ("tests/e2e/test_api.py", "with real agents under a real daemon"),
    "ccexecctl/api/sync.py": ("tests/e2e/test_api.py", "the same results without an event loop"),
    "ccexecctl/api/task.py": ("tests/e2e/test_api.py", "with real agents under a real daemon"),
    "ccexecctl/api/task_list.py": ("tests/e2e/test_api.py", "with real agents under a real daemon"),
    "ccexecctl/api/watch.py": ("tests/e2e/test_api_link.py", "against a real daemon, through real cuts"),
    "ccexecctl/agent_options.py": ("tests/e2e/test_agent_verbs.py", "what agent and tasks share"),
    "ccexecctl/commands/agent.py": ("tests/e2e/test_agent_verbs.py", "with an agent under a real daemon"),
    "ccexecctl/commands/tasks.py": ("tests/e2e/test_agent_verbs.py", "with an agent under a real daemon"),
    "ccexecctl/environment.py": ("tests/ctl/test_run.py", "what run passes on"),
    "ccexecctl/task_table.py": ("tests/e2e/test_agent_verbs.py", "what tasks run shows"),
    "ccexecctl/arguments.py": ("tests/ctl/test_help.py", "what it parses is what the help says"),
    "ccexecctl/commands/cancel.py": ("tests/ctl/test_steering.py", "one of four verbs of one kind"),
    "ccexecctl/commands/kill.py": ("tests/ctl/test_steering.py", "one of four verbs of one kind"),
    "ccexecctl/commands/pause.py": ("tests/ctl/test_steering.py", "one of four verbs of one kind"),
    "ccexecctl/commands/resume.py": ("tests/ctl/test_steering.py", "one of four verbs of one kind"),
    "ccexecctl/commands/health.py": ("tests/ctl/test_status.py", "asks the same question in short"),
    "ccexecctl/commands/version.py": ("tests/ctl/test_status.py", "compares the versions that status compares"),
    "ccexecctl/commands/receipt.py": ("tests/ctl/test_verify.py", "what it hands out is what verify verifies"),
    "ccexecctl/evidence.py": ("tests/ctl/test_verify.py", "how verify and receipt tell it"),
    "ccexecctl/commands/reload.py": ("tests/ctl/test_config.py", "what it reloads is the configuration"),
    "ccexecctl/commands/restart.py": ("tests/ctl/test_stop.py", "a stop and a start"),
    "ccexecctl/ending.py": ("tests/ctl/test_run.py", "what run and attach say and return"),
    "ccexecctl/following.py": ("tests/ctl/test_run.py", "what run and attach do while the command runs"),
    "ccexecctl/errors.py": ("tests/ctl/test_client.py", "the errors are the client's"),
    "ccexecctl/foreground.py": ("tests/ctl/test_run.py", "what run does while the command runs"),
    "ccexecctl/output.py": ("tests/ctl/test_run.py", "where run and logs write to"),
    "ccexecctl/launch.py": ("tests/ctl/test_start.py", "what start and restart share"),
    "ccexecctl/shutdown.py": ("tests/ctl/test_stop.py", "what stop and restart share"),
    "ccexecctl/stress/agents.py": ("tests/ctl/test_stress.py", "who is asked there"),
    "ccexecctl/stress/cases.py": ("tests/ctl/test_stress.py", "what is checked there"),
    "ccexecctl/stress/report.py": ("tests/ctl/test_stress.py", "what comes of it"),
    "ccexecctl/stress/standin_agent.py": ("tests/ctl/test_stress.py", "who is asked there"),
    "ccexecctl/stress/trial.py": ("tests/ctl/test_stress.py", "how it is asked there"),
    "ccexecctl/versions.py": ("tests/ctl/test_status.py", "one comparison"),
    "ccexecd/control/hooks.py": ("tests/hooks/test_register.py", "what the operator asks of the register"),
    "ccexecd/hooks/calls.py": ("tests/hooks/test_register.py", "every call is made for the register"),
    "ccexecd/hooks/entry.py": ("tests/hooks/test_file.py", "what an entry point of the file is"),
    "ccexecd/hooks/delivery.py": ("tests/hooks/test_register.py", "what executions hand on to it"),
    "ccexecd/preparation.py": ("tests/hooks/test_register.py", "hooks are most of it; stdbuf is in test_engine.py"),
    "ccexecd/core/result.py": ("tests/agents/test_final_result.py", "values that a reader gives"),
    "ccexecd/external/site.py": ("tests/external/test_http.py", "values that http is given"),
    "ccexecd/protocol/checks.py": ("tests/protocol/test_messages.py", "what the params of several methods share"),
    "ccexecd/protocol/operation.py": ("tests/protocol/test_messages.py", "with the params of all other methods"),
    "ccexecd/protocol/prompts.py": ("tests/protocol/test_messages.py", "with the params of all other methods"),
    "ccexecd/protocol/timings.py": ("tests/protocol/test_messages.py", "with the params of all other methods"),
    "ccexecd/process/inheritance.py": ("tests/process/test_keeper_client.py", "what a lost keeper leaves"),
    "ccexecd/process/keeper_link.py": ("tests/process/test_keeper_client.py", "every question goes through it"),
    "ccexecd/process/pausing.py": ("tests/process/test_execution.py", "what is asked of an execution"),
    "ccexecd/process/packets.py": ("tests/process/test_keeper.py", "how the keeper hears and speaks"),
    "ccexecd/process/tree.py": ("tests/process/test_keeper.py", "what the keeper remembers of an execution"),
    "ccexecd/process/standard_input.py": ("tests/process/test_execution.py", "an execution's input"),
    "ccexecd/process/leader.py": ("tests/process/test_keeper.py", "values that the keeper's client gives"),
    "ccexecd/process/description.py": ("tests/service/test_listing.py", "what list tells"),
    "ccexecd/core/cursor.py": ("tests/core/test_output.py", "a place in the log"),
    "ccexecd/core/entries.py": ("tests/core/test_output.py", "values that the log holds"),
    "ccexecd/core/store.py": ("tests/storage/test_stored_log.py", "the one that there is"),
    "ccexecd/service/figures.py": ("tests/external/test_metrics.py", "what is read there"),
    "ccexecd/protocol/limits.py": ("tests/protocol/test_messages.py", "params like the others"),
    "ccexecd/storage/schema.py": ("tests/storage/test_history.py", "what it is made of"),
    "ccexecd/storage/stored_reader.py": ("tests/storage/test_stored_log.py", "a place in one"),
    "ccexecd/storage/deferred_writes.py": ("tests/storage/test_stored_log.py", "what a failing disk makes a log defer"),
    "ccexecd/storage/log_files.py": (
        "tests/storage/test_stored_log.py",
        "the files of a log: opened, closed and counted there",
    ),
    "ccexecd/storage/room.py": ("tests/storage/test_spool.py", "the one that there is"),
    "ccexecd/session.py": ("tests/test_engine.py", "the engine opens and ends it"),
    "ccexecd/fairness.py": ("tests/service/test_fairness.py", "it is there for what is measured there"),
    "ccexecd/sparse.py": ("tests/storage/test_stored_log.py", "one system call"),
    "ccexecd/storage/chain_files.py": ("tests/storage/test_audit.py", "the first chain in files"),
    "ccexecd/storage/left_behind.py": ("tests/storage/test_archive.py", "what the archive does first"),
    "ccexecd/storage/notary.py": ("tests/storage/test_archive.py", "what the archive does with what has ended"),
    "ccexecd/storage/proof.py": ("tests/storage/test_receipts.py", "the form of what is signed there"),
    "ccexecd/storage/evidence.py": ("tests/service/test_evidence.py", "what verify and receipt answer"),
    "ccexecd/storage/verification.py": ("tests/service/test_evidence.py", "what verify answers"),
    "ccexecd/operator_file.py": ("tests/test_policy_file.py", "and tests/hooks/test_file.py: its two users"),
    "ccexecd/storage/plain_file.py": ("tests/storage/test_stored_log.py", "what lies in the place of a log's file"),
    "ccexecd/storage/past.py": ("tests/storage/test_archive.py", "values that the archive gives"),
    "ccexecd/storage/recovery.py": ("tests/storage/test_archive.py", "what the archive does first"),
    "ccexecd/reports.py": ("tests/test_daemon.py", "what a daemon tells of itself"),
    "ccexecd/key_values.py": ("tests/test_config.py", "every value is checked in its layer"),
    "ccexecd/launching.py": ("tests/test_engine.py", "the environment of what the engine starts"),
    "ccexecd/service/holding.py": ("tests/test_held.py", "two methods about what is held"),
    "ccexecctl/commands/drop.py": ("tests/ctl/test_steering.py", "release with another end"),
    "ccexecctl/commands/release.py": ("tests/ctl/test_steering.py", "about one execution, or all that are held"),
    "ccexecd/records.py": ("tests/test_engine.py", "what the engine remembers"),
}
"""Source without a test file of its own -> the one that tests it, and why there."""


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_tests_mirror_the_source(path):
    """Whoever changes a module knows where its tests are."""
    room = Path("ctl") if path.parts[0] == "ccexecctl" else path.relative_to("ccexecd").parent
    room = Path("api") if path in IN_API else room
    own = Path("tests") / room / f"test_{path.stem.strip('_')}.py"
    if str(path) in ELSEWHERE:
        assert (ROOT / ELSEWHERE[str(path)][0]).is_file()
        assert not (ROOT / own).is_file(), "it has tests of its own by now: its row can go"
    else:
        assert (ROOT / own).is_file(), "write it, or say in ELSEWHERE which file tests it and why"


def test_what_is_tested_elsewhere_exists():
    """The table names no source that has gone."""
    assert ELSEWHERE.keys() <= set(map(str, MODULES))


# One verb, one name, one row

CONTRACT = {
    "execute", "control", "write_stdin", "close_stdin", "resize_pty", "attach", "detach", "read_output", "wait",
    "list", "estimate", "history", "stats", "verify", "receipt", "prompts_list", "prompts_show",
    "prompts_history", "prompts_record", "prompts_count", "prompts_graduate", "resume_session", "hook_status", "pong",
    "release", "drop",
}  # fmt: skip
"""What both doors serve besides `status`, of the contract's methods."""

OPERATORS = {
    "status", "health", "config", "version", "reload", "policy", "stop",
    "token_show", "token_list", "token_add", "token_rotate", "token_revoke", "hook_test", "hook_run",
}  # fmt: skip

METHODS = operator_methods(SimpleNamespace(status=dict))  # never called here


def test_the_methods_are_those_of_the_contract():
    """A method that is added is added to the contract, too."""
    assert EXECUTION_METHODS.keys() == CONTRACT
    assert METHODS.keys() == CONTRACT | OPERATORS


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_class_for_its_params(name):
    """The class is one of the protocol's, and the one that the method says it takes."""
    method = METHODS[name]
    assert attrs.has(method.params)
    assert vars(messages)[method.params.__name__] is method.params
    _, wanted = inspect.signature(method.call).parameters.values()
    assert wanted.annotation is method.params


# Every state, every event


@pytest.mark.parametrize("event", Event, ids=lambda each: each.value)
@pytest.mark.parametrize("state", State, ids=lambda each: each.value)
def test_every_state_admits_an_event_or_stays(state, event):
    """A pair of the table changes the state of an execution as the table says; any other raises and changes nothing."""
    execution = Execution(Spec(("true",), "true"), "session", keeper=None, pump=None, window=1)
    execution.state = state
    if event in TRANSITIONS[state]:
        execution.apply(event)
        assert execution.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransitionError):
            execution.apply(event)
        assert execution.state is state


def test_the_table_names_states_and_events_only():
    """Every pair is one of the product of both."""
    pairs = {(state, event) for state, row in TRANSITIONS.items() for event in row}
    assert pairs < set(itertools.product(State, Event))
