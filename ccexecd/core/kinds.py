"""Classifies commands by marks that they share, so that runs of similar commands can be found.

A command has five marks, each of which more commands share than the one before: itself in its directory, its
form in its directory, its form, its program, its category. Paths, numbers, ids, addresses and texts are folded away
in a form; of an agent's prompt nothing is left but how long it is. No more than `LOOKED_AT` characters are looked at,
as many as the history shows of a command, so nothing here is derived from what is not kept anyway.

Owns the words for commands. Must not know how long anything takes.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import blake2b

import attrs

LOOKED_AT = 1000
"""Characters of a command: what `list` and the history show of one."""

_MOST_WORDS = 64
_MOST_WORD = 20_001  # characters: one more than the longest prompt that is not called huge
_MOST_SEGMENTS = 6
_MOST_FORM = 200  # characters
_TEXT = "a text"  # is folded as what it is
_KEPT_WORDS = 2  # of a program's own words: a subcommand and its target


class Category(Enum):
    """What sort of work a command is."""

    AGENT = "agent"
    TEST = "test"
    BUILD = "build"
    INSTALL = "install"
    TRANSFER = "transfer"
    CHECK = "check"
    SCRIPT = "script"
    SHELL = "shell"
    OTHER = "other"
    BRIEF = "brief"


_WEIGHT = {category: number for number, category in enumerate(reversed(Category))}
"""Rank of each category: of several programs in a command, the one that probably takes longest gives the category."""


@attrs.frozen
class Kind:
    """The marks of one command.

    Attributes:
        category: what sort of work it is.
        program: what does the work; with its subcommand, or its script.
        form: the command with everything folded away that differs from one run to the next.
        same: the same for the same command in the same directory, and for nothing else.
        place: the same for all commands of that form in that directory.
    """

    category: Category
    program: str
    form: str
    same: str
    place: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _named(text: str, category: Category) -> dict[str, Category]:
    return dict.fromkeys(text.split(), category)


_PROGRAMS: Mapping[str, Category] = {
    **_named("claude codex gemini aider opencode goose cursor-agent amp crush qwen copilot", Category.AGENT),
    **_named("pytest py.test tox nox ctest jest vitest mocha phpunit rspec playwright cypress bats", Category.TEST),
    **_named("unittest nextest ava karma", Category.TEST),
    **_named("make gmake ninja cmake meson scons bazel gcc g++ cc c++ clang clang++ ld rustc javac", Category.BUILD),
    **_named("mvn gradle gradlew ant sbt tsc webpack vite rollup esbuild cargo go dotnet just", Category.BUILD),
    **_named("build docker-compose buildah xcodebuild", Category.BUILD),
    **_named("pip pip3 apt apt-get dnf yum apk pacman brew gem conda mamba ensurepip venv", Category.INSTALL),
    **_named("curl wget rsync scp sftp rclone aria2c gsutil ftp", Category.TRANSFER),
    **_named("ruff mypy flake8 pylint black isort pyright eslint prettier shellcheck golangci-lint", Category.CHECK),
    **_named("python python3 node ruby perl php Rscript julia deno bun java bash sh dash zsh", Category.SCRIPT),
    **_named("npm pnpm yarn poetry uv rake invoke task", Category.SCRIPT),
    **_named("ls cat echo printf true false pwd date whoami id uname head tail wc env which stat", Category.BRIEF),
    **_named("df free uptime ps test [ mkdir rmdir rm cp mv touch ln chmod chown basename dirname", Category.BRIEF),
    **_named("readlink realpath hostname git export set unset cd read kill pgrep nproc", Category.BRIEF),
}

_TARGETS: Mapping[str, Category] = {
    **_named("test tests check e2e unit bench pytest nextest verify", Category.TEST),
    **_named("build all compile dist package bundle assemble bdist_wheel release wheel", Category.BUILD),
    **_named("install ci i add sync update upgrade download get restore", Category.INSTALL),
    **_named("clone fetch pull push", Category.TRANSFER),
    **_named("lint format fmt typecheck clippy vet", Category.CHECK),
    **_named("run start", Category.SCRIPT),
}
"""What a program with subcommands or targets does, by the first of its words that says so."""

_WITH_SUBCOMMANDS = _words(
    "git make gmake ninja just task rake invoke npm pnpm yarn poetry uv cargo go dotnet mvn gradle gradlew docker"
    " podman docker-compose pip pip3 apt apt-get dnf yum apk conda mamba brew gem kubectl helm terraform systemctl"
)

_IN_FRONT = _words("sudo doas env nice ionice nohup time timeout stdbuf setsid exec command xargs npx chronic unbuffer")
"""Programs that run the one which is named behind them."""

_RUNNERS = {("poetry", "run"), ("uv", "run"), ("pipenv", "run"), ("npm", "exec"), ("bundle", "exec")}

_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})

_WORD = r"""(?:[^\s'"\\;&|<>()]|\\.|'[^']*'?|"(?:[^"\\]|\\.)*"?)+"""
_PARTS = re.compile(rf"({_WORD})|([;&|<>()]+|\n)", re.DOTALL)
_QUOTES = re.compile(r"""["'\\]""")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]{0,30}", re.ASCII)
_PLAIN = re.compile(r"(?=.{1,24}$)[a-z][a-z:_-]*(?:\d{1,2}[a-z:_-]*)?", re.ASCII)  # e2e is one, a token is none
_NUMBER = re.compile(r"[+-]?\d[\d.,:]*[a-zA-Z%]{0,2}", re.ASCII)
_IDENTIFIER = re.compile(r"(?=.*\d)[0-9a-f-]{7,64}", re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(r"[\w.+-]*\.[A-Za-z]\w{0,7}", re.ASCII)
_PROGRAM = re.compile(r"[A-Za-z0-9_.+\[-]{1,40}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9._:/\[\]-]{1,60}", re.ASCII)

PROMPTS = ((0, "none"), (200, "short"), (2000, "medium"), (20_000, "long"))
"""How long a prompt may be, in characters, to be called so; a longer one is huge."""


def kind_of(argv: Sequence[str], display: str, cwd: str | None, *, shell: bool) -> Kind:
    """Work out the marks of a command.

    Args:
        argv: its words; if it is a command string, those of the shell.
        display: the command as people read it: the string for the shell, or the words quoted.
        cwd: its working directory; None for the root.
        shell: whether `display` is a string for a shell.
    """
    inner = display if shell else _string_for_shell(argv)
    if inner is None:
        segments, hidden = [[word[:_MOST_WORD] for word in argv[:_MOST_WORDS]]], 0
    else:
        segments, hidden = _segments(inner[:LOOKED_AT]), max(0, len(inner) - LOOKED_AT)
    told = [_told(words, hidden) for words in segments[:_MOST_SEGMENTS] if words]
    where = cwd or "/"
    same = _digest(where, display[:LOOKED_AT], str(len(display)))
    if not told:
        return Kind(Category.OTHER, "", "", same, _digest(where, ""))
    category, program, _ = max(told, key=lambda each: _WEIGHT[each[0]])
    if len(told) > 1 and category in (Category.OTHER, Category.BRIEF, Category.SCRIPT):
        category = Category.SHELL
    form = " ; ".join(form for _, _, form in told)[:_MOST_FORM]
    return Kind(category, program, form, same, _digest(where, form))


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _string_for_shell(argv: Sequence[str]) -> str | None:
    """The command string of `sh -c STRING`; None if the words are something else."""
    if len(argv) < 3 or argv[0].rpartition("/")[2] not in _SHELLS:
        return None
    option = argv[1]
    return argv[2] if option.startswith("-") and not option.startswith("--") and option.endswith("c") else None


def _segments(text: str) -> list[list[str]]:
    """The programs of a command string with their words: what stands between its operators, redirections left out."""
    segments: list[list[str]] = [[]]
    is_file = False
    for number, (word, operator) in enumerate(_PARTS.findall(text)):
        if number >= _MOST_WORDS:
            break
        if operator:
            is_file = "<" in operator or ">" in operator
            if is_file and segments[-1][-1:] and segments[-1][-1].isdecimal():
                segments[-1].pop()  # 2>file
            if not is_file:
                segments.append([])
        elif is_file:
            is_file = False
        else:
            segments[-1].append(_unquoted(word))
    return segments


def _unquoted(word: str) -> str:
    if _QUOTES.search(word) is None:
        return word
    try:
        return "".join(shlex.split(word, posix=True)) if len(word) < 100 else _QUOTES.sub("", word)
    except ValueError:  # a quote that does not end
        return _QUOTES.sub("", word)


def _told(words: list[str], hidden: int) -> tuple[Category, str, str]:
    """Category, program and form of one program's words.

    Args:
        words: not empty.
        hidden: characters of the command that are not in them: of an agent's, they belong to its prompt.
    """
    words = _without_front(words)
    path = words[0]
    name = path.rpartition("/")[2]
    if not _PROGRAM.fullmatch(name):
        return Category.OTHER, "PROGRAM", "PROGRAM"
    rest = words[1:]
    category = _PROGRAMS.get(name)
    if category is Category.AGENT:
        return category, name, _agent_form(name, rest, hidden)
    program = name
    if category is Category.SCRIPT and name not in _WITH_SUBCOMMANDS:
        module, rest = _script(rest)
        if module is None:
            return category, name, _form(name, rest, 0)
        program = f"{name} {module}"
        category = _TARGETS.get(module) or _PROGRAMS.get(module, Category.SCRIPT)
    elif name in _WITH_SUBCOMMANDS:
        plain = [word for word in rest if _PLAIN.fullmatch(word)][:_KEPT_WORDS]
        program = " ".join([name, *plain[:1]])
        meant = [_TARGETS[word] for word in plain if word in _TARGETS]
        category = max(meant, key=_WEIGHT.__getitem__, default=category)
        return category or Category.OTHER, program, _form(name, rest, _KEPT_WORDS)
    if category is None and "/" in path:
        category = Category.SCRIPT
    return category or Category.OTHER, program, _form(program, rest, 0)


def _without_front(words: list[str]) -> list[str]:
    """The words from the program on that does the work: behind assignments, `sudo`, `timeout 5`, `uv run`."""
    rest = words
    while True:
        while len(rest) > 1 and _ASSIGNMENT.match(rest[0]):
            rest = rest[1:]
        front = rest[0].rpartition("/")[2]
        if len(rest) > 2 and (front, rest[1]) in _RUNNERS:
            behind = rest[2:]
        elif front in _IN_FRONT:
            behind = rest[1:]
        else:
            return rest
        while len(behind) > 1 and (behind[0].startswith("-") or _NUMBER.fullmatch(behind[0])):
            behind = behind[1:]
        if not behind:
            return rest
        rest = behind


def _script(words: list[str]) -> tuple[str | None, list[str]]:
    """What an interpreter runs, by its base name, and the words behind it; None if it is not a file or a module."""
    for index, word in enumerate(words):
        if word == "-m" and index + 1 < len(words):
            module = words[index + 1].partition(".")[0]
            return (module if _PROGRAM.fullmatch(module) else "MODULE"), words[index + 2 :]
        if word in {"-c", "-e", "-"}:
            return None, [_TEXT, *words[index + 2 :]]
        if not word.startswith("-"):
            name = word.rpartition("/")[2]
            return (name if _PROGRAM.fullmatch(name) else "FILE"), words[index + 1 :]
    return None, words


def _form(program: str, words: Iterable[str], kept: int) -> str:
    """A program with its folded words: what they stand for, in order, and then the names of its options."""
    folded: list[str] = []
    options: set[str] = set()
    for word in words:
        if word.startswith("-") and word != "-":
            options.add(_option(word))
            continue
        what = _folded(word)
        if not what:
            what, kept = (word, kept - 1) if kept > 0 else ("WORD", 0)
        if folded[-1:] == [what]:
            folded[-1] = what + "+"
        elif folded[-1:] != [what + "+"]:
            folded.append(what)
    return " ".join([program, *folded, *sorted(options)])


def _option(word: str) -> str:
    """The name of an option. `-pSECRET` and `-j8` are `-p` and `-j`; what is long and has one dash may be either."""
    found = _OPTION.match(word)
    if found is None:
        return "-N" if word[1:].isdecimal() else "-OPTION"
    return found[0] if word.startswith("--") else found[0][:2]


def _folded(word: str) -> str:
    """What a word stands for; empty where it may be one of a program's own."""
    if "://" in word or "@" in word:
        return "URL"
    if len(word) > 200 or any(map(str.isspace, word)):
        return "TEXT"
    if _NUMBER.fullmatch(word):
        return "N"
    if _IDENTIFIER.fullmatch(word):
        return "ID"
    if "/" in word or word.startswith((".", "~")) or _FILE_NAME.fullmatch(word):
        return "PATH"
    return "" if _PLAIN.fullmatch(word) else "WORD"


def _agent_form(name: str, words: Sequence[str], hidden: int) -> str:
    """An agent by its model, by how long its prompt is, and by its options; nothing of the prompt itself."""
    model, options, longest = "", set[str](), 0
    is_model = False
    for word in words:
        if is_model:
            model, is_model = word, False
        elif word.startswith("-"):
            option, equals, value = word.partition("=")
            is_model = option in {"--model", "-m"} and not equals
            model = value if option in {"--model", "-m"} and equals else model
            options.add(_option(option))
        else:
            longest = max(longest, len(word))
    options -= {"--model", "-m"}
    prompt = next((label for most, label in PROMPTS if longest + hidden <= most), "huge")
    chosen = [f"model={model if _MODEL.fullmatch(model) else 'other'}"] if model else []
    return " ".join([name, *chosen, f"prompt={prompt}", *sorted(options)])
