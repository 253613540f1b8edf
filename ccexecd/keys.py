"""Every key of the configuration: its type, default, limits and meaning.

Owns the record that the daemon is given and what is known about each key. Knows no layer, file or environment: that is
`config`.
"""

from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_origin

import attrs

_RULES = "ccexecd"

_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string, not empty",
    tuple: "a list of strings, none empty",
}


@attrs.frozen
class Rules:
    """What is known about a key besides its type and default.

    Attributes:
        meaning: one phrase for the documentation, with the unit.
        earlier: the environment variable of the earlier system for this key.
        minimum: the smallest number allowed.
        maximum: the largest number allowed.
        choices: the words allowed; upper case is read as lower case.
        is_path: relative ones count from the working directory, in a file from that file's directory.
        reloadable: False when a running daemon cannot follow a change.
    """

    meaning: str
    earlier: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    is_path: bool = False
    reloadable: bool = True


LONGEST = 1_000_000_000
"""Seconds: as much as a client may ask for (`protocol.codec.MAX_SECONDS`)."""


MOST_IN_LANE = 1_000_000
"""The largest limit of a lane."""


_RATE: dict[str, Any] = {"minimum": 0, "maximum": 1_000_000}


def _key(default: object, meaning: str, **rules: Any) -> Any:
    return attrs.field(default=default, metadata={_RULES: Rules(meaning, **rules)})


@attrs.frozen
class Config:
    """Every key, with its default. The documentation of each is in its rules and in docs/configuration.md."""

    host: str = _key("127.0.0.1", "address or name to listen on", reloadable=False)
    port: int = _key(
        8003,
        "TCP port to listen on; 0 takes a free one",
        earlier="DEFAULT_PORT",
        minimum=0,
        maximum=65535,
        reloadable=False,
    )
    state_dir: str | None = _key(
        None, "directory for everything that the daemon binds and writes", is_path=True, reloadable=False
    )
    control_socket: str | None = _key(None, "Unix socket of ccexecctl", is_path=True, reloadable=False)
    pidfile: str | None = _key(None, "file that holds the lock and the pid", is_path=True, reloadable=False)
    log_file: str | None = _key(None, "log of a detached daemon", is_path=True, reloadable=False)
    token_file: str | None = _key(None, "bearer token of the WebSocket clients", is_path=True, reloadable=False)
    certfile: str | None = _key(
        None, "certificate for TLS (PEM), read again by every reload; not set: plain text", is_path=True
    )
    keyfile: str | None = _key(None, "its private key (PEM); not set: in the same file", is_path=True)
    allow_plaintext: bool = _key(
        False, "listen beyond loopback without TLS, where something in front of it or the network keeps tokens secret"
    )
    log_level: str = _key(
        "info",
        "least severe records that are logged",
        earlier="LOG_LEVEL",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    debug: bool = _key(False, "log at level debug, whatever `log_level` says", earlier="DEBUG")
    allowed_commands: tuple[str, ...] | None = _key(
        None, "programs that may be executed; not set: every program", earlier="ALLOWED_COMMANDS"
    )
    policy_file: str | None = _key(
        None, "rules of what may be executed, see docs/security.md; not set: none", is_path=True
    )
    hooks_file: str | None = _key(
        None, "programs that are called at the events of executions, see docs/hooks.md; not set: none", is_path=True
    )
    max_sessions: int = _key(100, "sessions at the same time", earlier="MAX_SESSIONS", minimum=1, maximum=100_000)
    max_running: int | None = _key(
        None,
        "executions that run at the same time, the rest waits; not set: what descriptors and processes allow",
        minimum=1,
        maximum=1_000_000,
    )
    max_per_session: int | None = _key(
        None, "executions of one session that run at the same time; not set: no limit", minimum=1, maximum=1_000_000
    )
    lanes: tuple[str, ...] = _key(
        (), "lanes and how many run in each at the same time, as `NAME=LIMIT`; limit 0 holds a lane until a reload"
    )
    max_queued: int = _key(
        10_000,
        "executions that wait for their turn; 0: none, what cannot start is refused",
        minimum=0,
        maximum=1_000_000,
    )
    session_timeout: float = _key(
        3600.0, "seconds until an idle session ends", earlier="SESSION_TIMEOUT", minimum=0, maximum=LONGEST
    )
    resume_window: float = _key(300.0, "seconds that a session outlives a cut connection", minimum=0, maximum=LONGEST)
    max_connections: int = _key(1024, "client connections at the same time", minimum=1, maximum=100_000)
    max_buffer_size: int = _key(
        8_388_608,
        "bytes of output kept in memory for each execution",
        earlier="MAX_BUFFER_SIZE",
        minimum=1024,
        maximum=1 << 40,
    )
    max_buffer_lines: int | None = _key(
        None, "lines of output kept in memory for each execution; not set: no limit", minimum=1, maximum=1 << 40
    )
    spool_execution_bytes: int = _key(
        1 << 30,
        "bytes of output kept on disk for each execution, the newest; 0 keeps none there",
        minimum=0,
        maximum=1 << 50,
    )
    spool_total_bytes: int | None = _key(
        None,
        "bytes that output may take on disk in all, a block for each file and directory counted in; not set: 10 GiB, "
        "or a tenth of the file system if that is less",
        minimum=1 << 20,
        maximum=1 << 60,
    )
    spool_max_age: float = _key(
        1_209_600.0, "seconds that output is kept on disk after its execution has finished", minimum=0, maximum=LONGEST
    )
    history_max_age: float = _key(7_776_000.0, "seconds that a finished execution is known", minimum=0, maximum=LONGEST)
    receipts: bool = _key(True, "write a signed receipt for each execution that has ended, see docs/evidence.md")
    stream_timeout: float = _key(
        600.0, "seconds that a client may take to accept output", earlier="STREAM_TIMEOUT", minimum=0, maximum=LONGEST
    )
    process_cleanup_timeout: float = _key(
        10.0,
        "seconds from TERM to KILL when an execution is ended",
        earlier="PROCESS_CLEANUP_TIMEOUT",
        minimum=0,
        maximum=LONGEST,
    )
    default_execution_timeout: float | None = _key(
        None,
        "seconds an execution may run when its request does not say; not set: no limit",
        earlier="DEFAULT_EXECUTION_TIMEOUT",
        minimum=0,
        maximum=LONGEST,
    )
    estimate_timeouts: bool = _key(
        False, "give an execution whose request leaves `timeout` out one by its past runs, as null asks for"
    )
    estimate_floor: float = _key(60.0, "seconds that an estimated time-out has at least", minimum=1, maximum=LONGEST)
    estimate_load: float = _key(
        14.0,
        "per cent of the processors or of a GPU in use from which an estimated time-out is multiplied",
        minimum=0,
        maximum=100,
    )
    estimate_multiplier: float = _key(3.0, "by how much it is multiplied then", minimum=1, maximum=1000)
    estimate_redis: str | None = _key(
        None,
        "URL of a Redis server through which daemons share how long commands take (extra `redis`): "
        "`redis://host:6379/0`, `rediss://…`, `unix:///path`; without a password in it; not set: none",
        reloadable=False,
    )
    estimate_redis_password_file: str | None = _key(
        None, "file that holds its password, or user and password as `USER:PASSWORD`", is_path=True, reloadable=False
    )
    drain_timeout: float = _key(
        0.0, "seconds that a stop lets running executions finish by themselves before TERM", minimum=0, maximum=LONGEST
    )
    ws_ping_interval: float = _key(
        20.0, "seconds between two WebSocket pings", earlier="WS_PING_INTERVAL", minimum=0.001, maximum=LONGEST
    )
    ws_ping_timeout: float = _key(
        30.0, "seconds to wait for a pong", earlier="WS_PING_TIMEOUT", minimum=0.001, maximum=LONGEST
    )
    ws_max_size: int = _key(
        10_485_760,
        "bytes of the largest message accepted from a client",
        earlier="WS_MAX_SIZE",
        minimum=1024,
        maximum=1 << 30,
    )
    shell: str | None = _key(None, "shell that runs `command`; not set: bash where there is one, else /bin/sh")
    allowed_hosts: tuple[str, ...] = _key((), "names accepted in the Host header besides the loopback ones")
    allowed_origins: tuple[str, ...] = _key(
        (), "web pages that may ask, as in the Origin header: `https://ci.example`; never `null`"
    )
    control_read_groups: tuple[str, ...] = _key(
        (), "groups whose members may look at everything through the control socket", reloadable=False
    )
    control_write_groups: tuple[str, ...] = _key(
        (), "groups whose members may do everything through the control socket", reloadable=False
    )
    handshake_rate: float = _key(
        1000.0, "WebSocket handshakes of one principal per second, ten times that at once; 0: no limit", **_RATE
    )
    request_rate: float = _key(
        10_000.0, "calls and HTTP requests of one principal per second, ten times that at once; 0: no limit", **_RATE
    )
    execution_rate: float = _key(
        2000.0, "executions that one principal may start per second, ten times that at once; 0: no limit", **_RATE
    )
    unset_environment: tuple[str, ...] = _key((), "environment variables that no execution inherits")
    leftovers: str = _key(
        "kill",
        "what happens to processes that outlive their execution's first one: they are ended, or left running",
        choices=("kill", "detach"),
    )
    post_result_grace: float | None = _key(
        None, "seconds that an agent may stay after its final result; not set: no limit", minimum=0, maximum=LONGEST
    )

    redact: tuple[str, ...] = _key(
        (), "regular expressions of what is kept out of log and audit, besides what looks like a secret anyway"
    )
    audit_required: bool = _key(False, "execute nothing that cannot be recorded in the audit")
    audit_max_bytes: int = _key(
        16_777_216, "bytes of one file of the audit, after which the next one is begun", minimum=65_536, maximum=1 << 40
    )
    audit_files: int = _key(20, "files of the audit that are kept", minimum=2, maximum=100_000)

    def lane_limits(self) -> dict[str, int]:
        """How many may run in each lane, by name.

        Raises:
            ValueError: `lanes` names one that is not `NAME=LIMIT`, or names it twice; the argument is its index.
        """
        limits: dict[str, int] = {}
        for index, word in enumerate(self.lanes):
            name, _, limit = word.partition("=")
            if not name or not limit.isascii() or not limit.isdecimal() or name in limits or int(limit) > MOST_IN_LANE:
                raise ValueError(index)
            limits[name] = int(limit)
        return limits

    def as_public_dict(self) -> dict[str, object]:
        """Return every key with a value that JSON can carry; no key holds a secret."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in attrs.asdict(self).items()}

    def updated(self, new: "Config") -> "Update":
        """Work out what a running daemon with this configuration makes of a new one."""
        differing = [key for key in FIELDS if getattr(self, key) != getattr(new, key)]
        changed = tuple(key for key in differing if rules(key).reloadable)
        return Update(
            config=attrs.evolve(self, **{key: getattr(new, key) for key in changed}),
            changed=changed,
            needs_restart=tuple(key for key in differing if not rules(key).reloadable),
        )


@attrs.frozen
class Update:
    """The effect of a reload.

    Attributes:
        config: the old one with every change that can take effect now.
        changed: the keys that did.
        needs_restart: the keys that differ and keep their old value.
    """

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


FIELDS: Mapping[str, "attrs.Attribute[Any]"] = MappingProxyType(attrs.fields_dict(Config))
"""Every key, in the order of the documentation."""


def rules(key: str) -> Rules:
    """Return the rules of a key."""
    found: Rules = FIELDS[key].metadata[_RULES]
    return found


def kind_of(key: str) -> type:
    """Return the type of a key's value without the None of a key that need not be set."""
    declared: Any = FIELDS[key].type
    if isinstance(declared, UnionType):
        declared = get_args(declared)[0]
    kind: type = get_origin(declared) or declared
    return kind


def allowed(key: str) -> str:
    """Say in words which values a key may have."""
    rule = rules(key)
    if rule.choices:
        return "one of " + ", ".join(rule.choices)
    if rule.is_path:
        return "a path"
    text = _WORDS[kind_of(key)]
    if rule.maximum is not None:
        return f"{text} from {rule.minimum} to {rule.maximum}"
    return text if rule.minimum is None else f"{text} of at least {rule.minimum}"


def redis_fault(url: str) -> str | None:
    """Say what is wrong with the address of a Redis server, without repeating any of it; None if nothing is."""
    kind, separator, place = url.partition("://")
    if kind not in {"redis", "rediss", "unix"} or not separator or not place:
        return "must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH"
    if "@" in place or "password" in place.lower():
        return "must not hold a password, which everybody may see here; estimate_redis_password_file names its file"
    return None
