"""What kind of command it is: the category, the form, and what is folded away."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.core.kinds import LOOKED_AT, Category, Kind, kind_of


def of(command: str, cwd: str | None = "/w") -> Kind:
    """The kind of a command string."""
    return kind_of(("sh", "-c", command), command, cwd, shell=True)


def of_words(*argv: str, cwd: str | None = "/w") -> Kind:
    """The kind of words without a shell."""
    return kind_of(argv, shlex.join(argv), cwd, shell=False)


@pytest.mark.parametrize(
    ("command", "category", "program", "form"),
    [
        ("claude -p 'fix it' --model=opus", "agent", "claude", "claude model=opus prompt=short -p"),
        ("codex exec --json 'do'", "agent", "codex", "codex prompt=short --json"),
        ("pytest -q tests/core", "test", "pytest", "pytest PATH -q"),
        ("python3 -m pytest -x a/b.py::test_c", "test", "python3 pytest", "python3 pytest PATH -x"),
        ("uv run pytest", "test", "pytest", "pytest"),
        ("npm test", "test", "npm test", "npm test"),
        ("make -j8 test", "test", "make test", "make test -j"),
        ("make -C sub -j 8", "build", "make sub", "make sub N -C -j"),
        ("cargo build --release", "build", "cargo build", "cargo build --release"),
        ("npm run build", "build", "npm run", "npm run build"),
        ("docker build -t x .", "build", "docker build", "docker build x PATH -t"),
        ("sudo nice -n 10 apt-get install -y redis", "install", "apt-get install", "apt-get install redis -y"),
        ("pip install 'redis>=5'", "install", "pip install", "pip install WORD"),
        ("git clone https://me:secret@h/x.git", "transfer", "git clone", "git clone URL"),
        ("curl -fsS http://h/x -o y.html", "transfer", "curl", "curl URL PATH -f -o"),
        ("ruff check .", "check", "ruff", "ruff WORD PATH"),
        ("python train.py --lr=0.1 data.csv", "script", "python train.py", "python train.py PATH --lr"),
        ("python -c 'print(1)' 7", "script", "python", "python TEXT N"),
        ("./deploy.sh prod", "script", "deploy.sh", "deploy.sh WORD"),
        ("cd /x && ls | wc -l", "shell", "cd", "cd PATH ; ls ; wc -l"),
        ("cd /x && make 2>&1 | tee log.txt", "build", "make", "cd PATH ; make ; tee PATH"),
        ("rm -rf build > /dev/null 2>err; make", "build", "make", "rm WORD -r ; make"),
        ("git status", "brief", "git status", "git status"),
        ("A=1 B='x y' echo a b c 1 2", "brief", "echo", "echo WORD+ N+"),
        ("mysql -uroot -phunter2 --password=hunter2 hunter2", "other", "mysql", "mysql WORD --password -p -u"),
        ("sleep 60", "other", "sleep", "sleep N"),
    ],
)
def test_a_command_is_told_by_what_it_does(command, category, program, form):
    """Its category, the program that does the work, and its form, from which all that differs is folded away."""
    kind = of(command)
    assert (kind.category.value, kind.program, kind.form) == (category, program, form)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pytest tests/a.py", "pytest tests/b.py"),
        ("tar czf /a/b.tgz x/1", "tar czf /c/d.tgz x/2"),
        ("sleep 1", "sleep 2.5"),
        ("x 123e4567-e89b-12d3-a456-426614174000", "x 6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("git commit -m 'one thing'", 'git commit -m "quite another"'),
        ("make -j4", "make -j16"),
        ("ruff check a/ --fix -q", "ruff check -q b/ --fix"),
        ("claude -p 'What is 2+2?'", "claude -p 'Name the capital of France'"),
    ],
)
def test_what_differs_from_run_to_run_is_folded_away(one, other):
    """Paths, numbers, ids, texts, prompts and the order of options; in one directory, they have a place in common."""
    assert of(one).form == of(other).form
    assert of(one).place == of(other).place
    assert of(one).same != of(other).same


def test_a_directory_tells_places_apart():
    """The same words mean something else elsewhere; nowhere in particular is the root directory."""
    here, there = of("make", "/a"), of("make", "/b")
    assert here.form == there.form
    assert (here.same, here.place) != (there.same, there.place)
    assert of("make", None) == of("make", "/")


def test_a_string_for_a_shell_among_words_is_read():
    """`sh -c` and its kin are no programs of their own."""
    assert of_words("bash", "-lc", "make test").form == of("make test").form
    assert of_words("sh", "script.sh").form == "sh script.sh"


@pytest.mark.parametrize(
    ("characters", "size"), [(0, "none"), (1, "short"), (201, "medium"), (2001, "long"), (20_001, "huge")]
)
def test_of_a_prompt_only_its_length_is_kept(characters, size):
    """Whatever is in it, in words and in a string; also where it is longer than what is looked at."""
    prompt = ["secret " * (characters // 7) + "x" * (characters % 7)] if characters else []
    assert of_words("claude", "-p", *prompt, "--model", "opus").form == f"claude model=opus prompt={size} -p"
    if characters:
        assert (
            of(shlex.join(["claude", "--model", "opus", "-p", *prompt])).form == f"claude model=opus prompt={size} -p"
        )


def test_nothing_is_kept_that_may_be_a_secret():
    """Values of options, what is glued to one, words that are no subcommands: none of them is in any mark."""
    for command in (
        "mysql -phunter2 hunter2",
        "curl -u me:hunter2 https://me:hunter2@host/hunter2",
        "TOKEN=hunter2 env KEY=hunter2 ./run --token hunter2 --key=hunter2",
        "claude -p 'the password is hunter2' --append-system-prompt=hunter2",
        "echo hunter2 | docker login -u x --password-stdin",
        "git push https://hunter2@x/y",
    ):
        for kind in (of(command), of_words(*shlex.split(command))):
            assert "hunter2" not in repr(kind)


def test_one_command_is_the_same_whatever_came_behind_what_is_looked_at():
    """Its length tells it apart, not text that the history does not keep."""
    begin = "x" * LOOKED_AT
    assert of(begin + "a").same == of(begin + "b").same
    assert of(begin + "a").same != of(begin + "ab").same


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100), st.lists(st.text(max_size=50), max_size=5))
def test_anything_has_a_kind(text, words):
    """Unfinished quotes, operators alone, nothing at all: each has a category and a short form."""
    for kind in (of(text), kind_of(words, text, None, shell=False)):
        assert isinstance(kind.category, Category)
        assert len(kind.form) <= 200
        assert (len(kind.same), len(kind.place)) == (16, 16)


def test_a_hostile_command_takes_no_longer():
    """What is looked at is bounded, and each pattern goes over it once."""
    for text in ("'" * 10**6, "\\" * 10**6, "a;" * 10**6, '"\\' * 10**6, "-" * 10**6, "1" * 10**6, ">" * 10**6):
        assert of(text).same
        assert kind_of([text] * 100, text, None, shell=False).same
