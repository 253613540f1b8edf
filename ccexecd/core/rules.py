"""A policy: rules in order, of which the first that matches decides.

Owns what a rule matches on and the explanation of a verdict. A rule matches when all of its conditions hold. One that
allows needs to be certain: a program is named by the name that it is called by and is the same file. One that denies
needs no more than a suspicion: the file, or the name. Knows no file system: whoever asks hands in what was resolved.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Literal

import attrs

from ccexecd.core.patterns import EXPRESSION, is_glob, matches, matches_path

Action = Literal["allow", "deny"]

_WRAPPERS = (
    "ash awk bash bun busybox bwrap chroot chrt csh dash deno docker doas ed emacs env entr expect fakeroot find fish "
    "firejail flock ftp gawk gdb git ionice java ksh less lua make mawk mksh more nawk nc nice node nodejs nohup "
    "nsenter numactl parallel perl php pkexec podman proot python rlwrap rsync ruby run-parts runuser scp script sed "
    "setarch setpriv setsid sh socat ssh start-stop-daemon stdbuf strace su sudo systemd-run tar taskset tclsh time "
    "timeout tmux unshare vi vim watch xargs zip zsh"
)
WRAPPERS = frozenset(_WRAPPERS.split())
"""Programs that run other programs, or code, given as arguments: whoever may run one of them with any argument may run
everything."""


@attrs.frozen
class Wish:
    """A command that is asked for, with its program and directory resolved.

    Attributes:
        argv: the words.
        path: the path where the program was found.
        program: the real path of that, symbolic links resolved.
        is_in_path: the program was found in a directory of PATH.
        cwd: the real path of the working directory.
        environment: names of variables whose values differ from the inherited ones.
        principal: name of the principal that asks.
        is_long: the command is too long for regular expressions to be tried on it.
    """

    argv: tuple[str, ...]
    path: str
    program: str
    is_in_path: bool
    cwd: str
    environment: tuple[str, ...]
    principal: str
    is_long: bool = False

    @property
    def called(self) -> str:
        """The name that the program is called by; some programs act by it."""
        return name_of(self.argv[0])


Resolve = Callable[[str], str | None]
"""Called with a program's name or path; returns its real path, or None if there is no such program."""


@attrs.frozen
class Rule:
    """One rule. A condition that is None holds for everything.

    Attributes:
        action: its decision on a command that it matches.
        place: its number in the file, from 1.
        name: its name in the file; may be empty.
        program: names that are found in PATH, absolute paths, and globs of either.
        arguments: patterns of the first arguments, one for each; more may follow.
        every_argument: each argument matches one of these patterns.
        any_argument: some argument matches one of these patterns.
        no_argument: no argument matches one of these patterns.
        cwd: directories; the working directory is one of them, or below.
        environment: patterns; each name that the client sets or takes away matches one of them.
        no_environment: patterns; no such name matches one of them.
        principal: patterns of who may ask.
        run_as: the user that the command runs as; None for the daemon's own.
    """

    action: Action
    place: int = 0
    name: str = ""
    program: tuple[str, ...] | None = None
    arguments: tuple[str, ...] | None = None
    every_argument: tuple[str, ...] | None = None
    any_argument: tuple[str, ...] | None = None
    no_argument: tuple[str, ...] | None = None
    cwd: tuple[str, ...] | None = None
    environment: tuple[str, ...] | None = None
    no_environment: tuple[str, ...] | None = None
    principal: tuple[str, ...] | None = None
    run_as: str | None = None

    def __str__(self) -> str:
        return f"rule {self.place} ({self.name})" if self.name else f"rule {self.place}"

    def miss(self, wish: Wish, resolve: Resolve) -> str | None:
        """Return why the rule does not match a wish; None if it matches."""
        conditions = (self._program(wish, resolve), self._arguments(wish), self._surroundings(wish))
        return next(filter(None, conditions), None)

    def _program(self, wish: Wish, resolve: Resolve) -> str | None:
        if self.program is None:
            return None
        is_meant = _is_surely if self.action == "allow" else _may_be
        if any(is_meant(entry, wish, resolve) for entry in self.program):
            return None
        return f"{wish.program} as {wish.called!r} is none of its programs"

    def _arguments(self, wish: Wish) -> str | None:
        given = wish.argv[1:]
        if self.arguments is not None:
            if len(given) < len(self.arguments):
                return f"it needs {len(self.arguments)} arguments"
            for place, (pattern, word) in enumerate(zip(self.arguments, given, strict=False), 1):
                if not self._holds((pattern,), word, wish):
                    return f"argument {place} does not match {pattern!r}"
        if self.every_argument is not None:
            for place, word in enumerate(given, 1):
                if not self._holds(self.every_argument, word, wish):
                    return f"argument {place} is none that it knows"
        if self.any_argument is not None and not any(self._holds(self.any_argument, word, wish) for word in given):
            return "none of its arguments is there"
        if self.no_argument is not None:
            for place, word in enumerate(given, 1):
                if not self._is_free_of(self.no_argument, word, wish):
                    return f"argument {place} is one that it excludes"
        return None

    def _holds(self, patterns: tuple[str, ...], word: str, wish: Wish) -> bool:
        """Whether a word matches. One that cannot be judged matches in a rule that denies, not in one that allows."""
        found = [_match(pattern, word, wish) for pattern in patterns]
        return True in found or (self.action == "deny" and None in found)

    def _is_free_of(self, patterns: tuple[str, ...], word: str, wish: Wish) -> bool:
        found = [_match(pattern, word, wish) for pattern in patterns]
        return True not in found and (self.action == "deny" or None not in found)

    def _surroundings(self, wish: Wish) -> str | None:
        if self.cwd is not None and not any(_is_below(wish.cwd, root) for root in self.cwd):
            return f"{wish.cwd} is in none of its directories"
        for name in wish.environment:
            if self.environment is not None and not self._holds(self.environment, name, wish):
                return f"environment name {name} is none that it knows"
            if self.no_environment is not None and not self._is_free_of(self.no_environment, name, wish):
                return f"environment name {name} is one that it excludes"
        if self.principal is not None and not self._holds(self.principal, wish.principal, wish):
            return f"{wish.principal!r} is none of its principals"
        return None

    def warnings(self) -> Iterator[str]:
        """What whoever wrote it may not have meant."""
        if self.action != "allow":
            return
        if self.program is None:
            yield f"{self} allows every program"
            return
        limits = (self.arguments, self.every_argument, self.any_argument, self.no_argument)
        for entry in self.program:
            if is_wrapper(entry) and not any(limit is not None for limit in limits):
                yield f"{self} allows {entry} with any argument, and so every program: it runs what it is told"
            elif entry.endswith(("/*", "/**")):
                yield f"{self} allows {entry}: shells and interpreters in there run everything"


@attrs.frozen
class Decision:
    """The decision of a policy on a wish.

    Attributes:
        allowed: whether the command may run.
        rule: the rule that decided; None if none matched.
        reason: the reason in words.
        steps: the rules before that one, in order, each with why it did not match.
    """

    allowed: bool
    rule: Rule | None
    reason: str
    steps: tuple[tuple[str, str], ...]


@attrs.frozen
class Policy:
    """A policy.

    Attributes:
        default: the decision if no rule matches.
        rules: the rules, in order.
    """

    default: Action
    rules: tuple[Rule, ...] = ()

    def decide(self, wish: Wish, resolve: Resolve) -> Decision:
        """Return the decision of the first rule that matches, or the default."""
        steps: list[tuple[str, str]] = []
        for rule in self.rules:
            miss = rule.miss(wish, resolve)
            if miss is None:
                verb = "allows" if rule.action == "allow" else "denies"
                return Decision(rule.action == "allow", rule, f"{rule} {verb} it", tuple(steps))
            steps.append((str(rule), miss))
        allowed = self.default == "allow"
        return Decision(allowed, None, f"no rule matches, and the default is {self.default}", tuple(steps))

    def as_public_dict(self) -> dict[str, object]:
        """Return the policy as JSON values; conditions that a rule does not have are left out."""
        rules = [attrs.asdict(rule, filter=lambda _, value: value not in (None, "")) for rule in self.rules]
        return {
            "default": self.default,
            "rules": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in rule.items()}
                for rule in rules
            ],
        }

    def warnings(self) -> list[str]:
        """What whoever wrote it may not have meant."""
        return [warning for rule in self.rules for warning in rule.warnings()]


def name_of(program: str) -> str:
    """The last part of a path, or a name as it is."""
    return program.rpartition("/")[2]


def is_wrapper(entry: str) -> bool:
    """Whether an entry of a rule or an allow-list names a program that runs others."""
    name = name_of(entry)
    return name in WRAPPERS or name.rstrip("0123456789.") in WRAPPERS


def warnings_of(allowed: Collection[str]) -> list[str]:
    """What whoever wrote an allow-list may not have meant."""
    return [
        f"allowed_commands allows {entry} with any argument, and so every program: it runs what it is told"
        for entry in allowed
        if is_wrapper(entry)
    ]


def _is_surely(entry: str, wish: Wish, resolve: Resolve) -> bool:
    """Whether an entry means the program, for a rule that allows it."""
    if not is_glob(entry):
        return name_of(entry) == wish.called and resolve(entry) == wish.program
    if "/" in entry:
        return matches_path(entry, wish.program)
    return wish.is_in_path and matches(entry, wish.called) is True


def _may_be(entry: str, wish: Wish, resolve: Resolve) -> bool:
    """Whether an entry means the program, for a rule that denies it: also under another name, or another file."""
    if not is_glob(entry):
        is_called = "/" not in entry and entry in {wish.called, name_of(wish.program)}
        return is_called or entry in {wish.path, wish.program} or resolve(entry) == wish.program
    if "/" in entry:
        return matches_path(entry, wish.program) or matches_path(entry, wish.path)
    return bool(matches(entry, wish.called) or matches(entry, name_of(wish.program)))


def _match(pattern: str, word: str, wish: Wish) -> bool | None:
    return None if wish.is_long and pattern.startswith(EXPRESSION) else matches(pattern, word)


def _is_below(directory: str, root: str) -> bool:
    root = root.rstrip("/")
    return directory == (root or "/") or directory.startswith(root + "/")
