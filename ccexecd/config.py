"""The configuration of a daemon, merged from four layers.

Owns the order default < file < environment < flag and the errors. Every value of every layer is checked, also one that
a stronger layer replaces, and all problems are told at once, each with its key, its source and what is allowed. The
keys themselves are in `keys`, and what one value has to be in `key_values`. Must not import Trio: this runs before the
daemon forks.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from ccexecd.core.hooks import Hook
from ccexecd.core.patterns import PatternError
from ccexecd.core.redaction import Redactor
from ccexecd.core.rules import Policy
from ccexecd.key_values import checked, from_text, in_earlier_manner
from ccexecd.keys import FIELDS, MOST_IN_LANE, Config, Update, allowed, redis_fault, rules
from ccexecd.operator_file import FaultyFileError, toml_in
from ccexecd.paths import Places, default_places

__all__ = ["Config", "ConfigError", "LoadedConfig", "Problem", "Update", "load"]

PREFIX = "CCEXECD_"
"""Before a key in capitals: the environment variable of that key."""

CONFIG_VARIABLE = "CCEXECD_CONFIG"
"""Environment variable that names the configuration file, as `--config` does."""

NOT_KEYS = frozenset({CONFIG_VARIABLE, "CCEXECD_SOCKET"})
"""Environment variables with the prefix that are no keys; the second one is ccexecctl's."""

_SHOWN = 60
"""Characters of a wrong value that its error repeats."""


class Problem(NamedTuple):
    """One problem: its key (empty for the whole file), the source of the value, and what is allowed."""

    key: str
    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.key} ({self.source}): {self.message}" if self.key else f"{self.source}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; its text has one line for each problem.

    Attributes:
        problems: every one that was found.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@attrs.frozen
class LoadedConfig:
    """A configuration and where it comes from.

    Attributes:
        config: the merged values.
        sources: for each key "default", "file PATH", "environment NAME" or "flag --NAME".
        files: the files that were read.
        config_file: the file that was looked for, whether or not it was there.
        policy: what `policy_file` holds; None where that is not set.
        hooks: what `hooks_file` holds.
    """

    config: Config
    sources: Mapping[str, str]
    files: tuple[Path, ...]
    config_file: Path
    policy: Policy | None
    hooks: tuple[Hook, ...]
    _inputs: "_Inputs" = attrs.field(repr=False)

    def load_again(self) -> "LoadedConfig":
        """Read the file again, for a reload: with the flags, environment and working directory of the start.

        Raises:
            ConfigError: as `load` does.
        """
        return _load(self._inputs)

    def require_secrecy(self) -> None:
        """Check, before anything is started, that nobody can listen in on the network.

        Raises:
            ConfigError: the address can be reached from other machines, there is no TLS, and plain text is not allowed.
        """
        config = self.config
        if config.certfile is None and not config.allow_plaintext and _is_beyond_loopback(config.host):
            message = (
                f"{config.host} is beyond loopback, without TLS: tokens and commands would travel in the clear. Set "
                "certfile (and keyfile), or listen on 127.0.0.1; or set allow_plaintext where something in front of "
                "ccexecd speaks TLS"
            )
            raise ConfigError([Problem("host", self.sources["host"], message)])

    def changes(self, update: Update, earlier: "LoadedConfig") -> list[str]:
        """Return the keys that an update has changed, including those that name a file whose content has changed."""
        held = {"policy_file": self.policy != earlier.policy, "hooks_file": self.hooks != earlier.hooks}
        return [*update.changed, *(key for key, differs in held.items() if differs and key not in update.changed)]

    def places(self) -> Places:
        """Return the places of this daemon: the usual ones, except those that keys name.

        Raises:
            PlaceError: the user has no home directory.
        """
        config = self.config
        usual = default_places(self._inputs.environ, state_dir=Path(config.state_dir) if config.state_dir else None)
        named = {key: getattr(config, key) for key in ("pidfile", "control_socket", "log_file", "token_file")}
        return replace(
            usual, config_file=self.config_file, **{key: Path(path) for key, path in named.items() if path is not None}
        )


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    *,
    directory: Path | None = None,
) -> LoadedConfig:
    """Merge defaults, file, environment and flags.

    Args:
        flags: values by key; None counts as not given.
        environ: may hold `CCEXECD_` and a key in capitals, or the name of the earlier system; empty is not given.
        config_file: must exist; None reads the file that `CCEXECD_CONFIG` names, or the default one if there is one.
        directory: what relative paths count from; None is the working directory.

    Raises:
        ConfigError: with everything that is wrong.
        PlaceError: the default file would be below the home directory, and the user has none.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return _load(_Inputs(given, dict(environ), config_file, directory or _working_directory()))


@attrs.frozen
class _Inputs:
    """What a configuration is made from, kept for reloads: a daemon changes its directory and its environment."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    named_file: Path | None
    directory: Path


def _load(inputs: _Inputs) -> LoadedConfig:
    file, is_named = _find_file(inputs)
    merge = _Merge()
    was_read = merge.take_file(file, is_named=is_named)
    merge.take_environment(inputs.environ, inputs.directory)
    merge.take_flags(inputs.flags, inputs.directory)
    policy, hooks = merge.policy(), merge.hooks()
    if merge.problems:
        raise ConfigError(merge.problems)
    if merge.values.get("debug"):
        merge.values["log_level"], merge.sources["log_level"] = "debug", merge.sources["debug"]
    return LoadedConfig(
        config=Config(**merge.values),
        sources=MappingProxyType(merge.sources),
        files=(file,) if was_read else (),
        config_file=file,
        policy=policy,
        hooks=hooks,
        inputs=inputs,
    )


def _is_beyond_loopback(host: str) -> bool:
    """Whether an IP address is not a loopback one; False for host names, which are judged when they are listened on."""
    if host in {"127.0.0.1", "localhost", "::1"}:
        return False
    from ipaddress import ip_address  # noqa: PLC0415  # most need it never

    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return False


def _find_file(inputs: _Inputs) -> tuple[Path, bool]:
    """Return the configuration file, and whether somebody named it, so that it must exist."""
    named = inputs.named_file or inputs.environ.get(CONFIG_VARIABLE)
    if named:
        return inputs.directory / named, True
    state_dir = inputs.flags.get("state_dir") or inputs.environ.get(_variable("state_dir"))
    below = Path(_absolute(str(state_dir), inputs.directory)) if state_dir else None
    return default_places(inputs.environ, state_dir=below).config_file, False


@attrs.define
class _Merge:
    """The layers merged so far; a later layer replaces the values of an earlier one."""

    values: dict[str, Any] = attrs.Factory(dict)
    sources: dict[str, str] = attrs.Factory(lambda: dict.fromkeys(FIELDS, "default"))
    problems: list[Problem] = attrs.Factory(list)

    def take_file(self, file: Path, *, is_named: bool) -> bool:
        source = f"file {file}"
        try:
            with file.open("rb") as stream:
                settings = toml_in(stream)
        except OSError as error:
            if is_named or not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.problems.append(_unreadable(file, error, is_named=is_named))
            return False
        except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
            self.problems.append(Problem("", source, f"not valid TOML: {error}"))
            return False
        for key, value in settings.items():
            self.take(key, source, value, file.parent)
        return True

    def take_environment(self, environ: Mapping[str, str], directory: Path) -> None:
        for key in FIELDS:
            variable, earlier = _variable(key), rules(key).earlier
            if environ.get(variable):
                self.take_text(key, f"environment {variable}", environ[variable], directory)
            elif earlier and environ.get(earlier):
                self.take_text(key, f"environment {earlier}", in_earlier_manner(key, environ[earlier]), directory)
        known = {_variable(key) for key in FIELDS} | NOT_KEYS
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in known:
                self.problems.append(Problem(name, "environment", f"unknown variable; {_suggest(name)}"))

    def take_flags(self, flags: Mapping[str, object], directory: Path) -> None:
        for key, value in flags.items():
            self.take(key, f"flag --{key.replace('_', '-')}", value, directory)

    def policy(self) -> Policy | None:
        """Read the policy that the values name, and check what is in `redact`, `lanes` and `estimate_redis`."""
        self._check_redaction(self.values.get("redact", ()))
        self._check_lanes(self.values.get("lanes", ()))
        self._check_redis(self.values.get("estimate_redis"))
        if "policy_file" not in self.values:
            return None
        from ccexecd import policy_file  # noqa: PLC0415  # few have one

        file = Path(self.values["policy_file"])
        try:
            return policy_file.load(file)
        except FaultyFileError as error:
            self.problems += [Problem(place, f"policy file {file}", message) for place, message in error.faults]
            return None

    def hooks(self) -> tuple[Hook, ...]:
        """Read the hooks that the values name."""
        if "hooks_file" not in self.values:
            return ()
        from ccexecd.hooks import file as hooks_file  # noqa: PLC0415  # few have one

        file = Path(self.values["hooks_file"])
        try:
            return hooks_file.load(file)
        except FaultyFileError as error:
            self.problems += [Problem(place, f"hooks file {file}", message) for place, message in error.faults]
            return ()

    def _check_redaction(self, expressions: Sequence[str]) -> None:
        for index, expression in enumerate(expressions):
            try:
                Redactor([expression])
            except PatternError as error:
                self.problems.append(Problem(f"redact[{index}]", self.sources["redact"], str(error)))

    def _check_lanes(self, lanes: tuple[str, ...]) -> None:
        try:
            Config(lanes=lanes).lane_limits()
        except ValueError as error:
            text = f"must be NAME=LIMIT, each name once, the limit from 0 to {MOST_IN_LANE}"
            self.problems.append(Problem(f"lanes[{error}]", self.sources["lanes"], text))

    def _check_redis(self, url: str | None) -> None:
        fault = None if url is None else redis_fault(url)
        if fault is not None:
            self.problems.append(Problem("estimate_redis", self.sources["estimate_redis"], fault))

    def take_text(self, key: str, source: str, text: str, directory: Path) -> None:
        try:
            value = from_text(key, text)
        except ValueError:
            wins = "" if source.endswith(_variable(key)) else f"; {_variable(key)} takes its place"
            self.problems.append(Problem(key, source, f"must be {allowed(key)}, got {text[:_SHOWN]!r}{wins}"))
        else:
            self.take(key, source, value, directory)

    def take(self, key: str, source: str, value: object, directory: Path) -> None:
        if key not in FIELDS:
            self.problems.append(Problem(key, source, f"unknown key; {_suggest(key)}"))
            return
        usable, faults = checked(key, value)
        self.problems += [Problem(key + where, source, message) for where, message in faults]
        if not faults:
            self.values[key] = _absolute(usable, directory) if rules(key).is_path else usable
            self.sources[key] = source


def _unreadable(file: Path, error: OSError, *, is_named: bool) -> Problem:
    """Return the problem of a file that cannot be read; of an unnamed default file, its directory is the problem."""
    if is_named or os.access(file.parent, os.X_OK):
        return Problem("", f"file {file}", str(error.strerror))
    return Problem(
        "", f"directory {file.parent}", f"not accessible: {error.strerror}; choose another with --state-dir DIR"
    )


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed: nothing is relative to it any more
        return Path("/")


def _variable(key: str) -> str:
    return PREFIX + key.upper()


def _absolute(path: str, directory: Path) -> str:
    return str(directory / os.path.expanduser(path))  # noqa: PTH111  # Path's own raises for an unknown user


def _suggest(name: str) -> str:
    base = name.removeprefix(PREFIX).lower()
    renamed = [key for key in FIELDS if rules(key).earlier == base.upper()]
    close = renamed or get_close_matches(base, FIELDS, n=1)
    if not close:
        some = ", ".join(get_close_matches(base, FIELDS, n=3, cutoff=0.0))
        return f"there are {some} and others, see `ccexecctl config show` or docs/configuration.md"
    return f"did you mean {_variable(close[0]) if name.startswith(PREFIX) else close[0]}?"
