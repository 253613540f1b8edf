"""The policy file: TOML with a default and rules in order (`core.rules` says what a rule matches on).

Owns the keys and values that the file may have. Must not decide anything, and must not import Trio: a configuration is
checked before the daemon forks.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Any

import attrs

from ccexecd.core.patterns import PatternError, check, is_glob
from ccexecd.core.rules import Action, Policy, Rule
from ccexecd.operator_file import Fault, FaultyFileError, read, structured
from ccexecd.protocol.codec import Text

_PATTERNS = ("arguments", "every_argument", "any_argument", "no_argument", "environment", "no_environment", "principal")

_Texts = tuple[Text, ...]


@attrs.frozen
class _Rule:
    """A `[[rule]]` of the file."""

    action: Action
    name: Text = Text("")
    program: _Texts | None = None
    arguments: _Texts | None = None
    every_argument: _Texts | None = None
    any_argument: _Texts | None = None
    no_argument: _Texts | None = None
    cwd: _Texts | None = None
    environment: _Texts | None = None
    no_environment: _Texts | None = None
    principal: _Texts | None = None
    run_as: Text | None = None


@attrs.frozen
class _File:
    """The whole file."""

    default: Action
    rule: tuple[_Rule, ...] = ()


def load(file: Path) -> Policy:
    """Read a policy.

    Raises:
        FaultyFileError: with everything that is wrong.
    """
    return parse(read(file, _danger_of))


def parse(settings: dict[str, Any]) -> Policy:
    """Make a policy from parsed TOML.

    Raises:
        FaultyFileError: with everything that is wrong.
    """
    found = structured(settings, _File)
    faults = [
        Fault(f"rule[{index}]{place}", message)
        for index, rule in enumerate(found.rule)
        for place, message in _faults_of(rule)
    ]
    if faults:
        raise FaultyFileError(faults)
    rules = (Rule(**attrs.asdict(rule), place=place) for place, rule in enumerate(found.rule, 1))
    return Policy(found.default, tuple(rules))


def _danger_of(status: os.stat_result) -> str:
    return "may be written by everybody; take that away: chmod o-w" if status.st_mode & stat.S_IWOTH else ""


def _faults_of(rule: _Rule) -> list[Fault]:
    faults = []
    for field in _PATTERNS:
        for index, pattern in enumerate(getattr(rule, field) or ()):
            try:
                check(pattern)
            except PatternError as error:
                faults.append(Fault(f".{field}[{index}]", str(error)))
    for index, entry in enumerate(rule.program or ()):
        if not entry or ("/" in entry and not entry.startswith(("/", "**"))):
            faults.append(
                Fault(f".program[{index}]", "must be a program's name or its absolute path, or a glob of these")
            )
    for index, root in enumerate(rule.cwd or ()):
        if not root.startswith("/") or is_glob(root):
            faults.append(Fault(f".cwd[{index}]", "must be an absolute path of a directory, no glob"))
    return faults + _faults_of_user(rule)


def _faults_of_user(rule: _Rule) -> list[Fault]:
    if rule.run_as is None:
        return []
    if rule.action != "allow":
        return [Fault(".run_as", "belongs to a rule that allows")]
    if os.geteuid() != 0:
        return [Fault(".run_as", "needs a daemon that runs as root")]
    try:
        pwd.getpwnam(rule.run_as)
    except (KeyError, ValueError):
        return [Fault(".run_as", f"there is no user {str(rule.run_as)!r}")]
    return []
