"""Command strings that want more than they are allowed: refused; and what is admitted runs nothing else, says Bash."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccexecd.config import Config
from ccexecd.core.policy import RefusedError
from ccexecd.core.rules import Policy, Rule
from ccexecd.judgement import Judge, question

BASH = shutil.which("bash")
REAL = ("env", "sh", "bash", "nice", "nohup", "timeout", "xargs", "find", "setsid", "stdbuf")

HOSTILE = [
    # one command after another
    *("ok; evil", "ok;evil", "ok ;evil", "evil; ok", ";evil", "ok && evil", "ok&&evil", "ok || evil", "nok || evil"),
    *("ok & evil", "ok& evil", "evil &", "ok | evil", "ok|evil", "ok |& evil", "evil | ok", "ok; ok; evil", "ok\nevil"),
    *("ok\n\nevil\n", "\nevil", "ok\r\nevil", "ok ;; evil", "! evil", "! ok; evil", "true; evil", "ok a b c ; evil"),
    *("ok 'a' ; evil", 'ok "a" ; evil', "ok 'a';evil", "ok ''|evil", "ok \\\n; evil", "ok \\\n evil; evil"),
    # substitutions
    *("ok $(evil)", "ok `evil`", 'ok "$(evil)"', 'ok "`evil`"', "$(evil)", "`evil`", "ok <(evil)", "ok >(evil)"),
    *(
        "ok $(ok $(evil))",
        "ok a$(evil)b",
        'ok "a$(evil)b"',
        "ok ${X:-$(evil)}",
        "ok $((1 + $(evil)))",
        "ok $[ $(evil) ]",
    ),
    *("ok ${x[$(evil)]}", "ok $((x[$(evil)]))", 'ok "${X:-`evil`}"', "ok < <(evil)", "ok <<< $(evil)", "ok <<< `evil`"),
    *("ok > $(evil)", "ok '$(ok)'$(evil)", "ok \"'$(evil)'\"", "ok ''$(evil)''", 'ok ""`evil`""', "ok ${X:=$(evil)}"),
    # what a variable holds
    *(
        "$X",
        "${X}",
        "$X evil",
        "ok $X",
        "X=evil; $X",
        "X=evil eval '$X'",
        "X=evil; ${X}",
        "X=(evil); ${X[0]}",
        "${X:-evil}",
    ),
    *("$'evil'", "$'\\x65vil'", '$"evil"', "ok $'a'; evil", "set evil; $1", "set -- evil; $@", 'set -- evil; "$*"'),
    # words that become a name
    *(
        "e'v'il",
        'e"v"il',
        "\\evil",
        "ev\\il",
        "'evil'",
        '"evil"',
        "''evil",
        'evil""',
        "e{v,v}il",
        "{evil,}",
        "{evil,ok}",
    ),
    *("ev?l", "ev*", "[e]vil", "e[v]il", "~/evil", "~+/evil", "./evil", "../bin/evil", "bin/evil", "/bin/../bin/sh"),
    *("e$()vil", "e``vil", "ev$@il", "e${X}vil", "evil$IFS", "{e,}vil", "e\\\nvil", "ev''il", "?vil", "*vil"),
    # assignments in front
    *(
        "PATH=. evil",
        "PATH=. ok",
        "LD_PRELOAD=./x ok",
        "X=1 evil",
        "X=1 ok",
        "X=1 Y=2 evil",
        "BASH_ENV=./x ok",
        "X= evil",
    ),
    *("IFS=x evil", "PATH+=:. ok", "X[0]=1 evil", "X=$(evil)", "X=`evil` ok", "X=$(evil) ok", "ENV=x ok", "'X'=1 ok"),
    # redirections
    *(
        "ok > file",
        "ok >> file",
        "ok < file",
        "ok 2> file",
        "ok &> file",
        "ok >& file",
        "ok 2>&1",
        "> file",
        ">file ok",
    ),
    *(
        "ok >| file",
        "ok <> file",
        "< evil ok",
        "ok <<< evil",
        "ok <<E\nevil\nE",
        "ok <<E\n$(evil)\nE",
        "ok <<-E\n`evil`\nE",
    ),
    *(
        "ok 3<evil",
        "<evil",
        "ok{fd}>file",
        "ok >/dev/tcp/127.0.0.1/9",
        "2>file evil",
        "evil > file",
        "cat <<'E'\nx\nE\nevil",
    ),
    # programs and words of a shell that run others
    *(
        "env evil",
        "env -i evil",
        "env X=1 evil",
        "sh -c evil",
        "bash -c evil",
        "bash -c 'evil'",
        "nice evil",
        "nohup evil",
    ),
    *("timeout 9 evil", "xargs evil", "xargs -I{} evil", "find . -exec evil +", "setsid evil", "stdbuf -oL evil"),
    *(
        "exec evil",
        "command evil",
        "builtin exec evil",
        "eval evil",
        "eval 'evil'",
        ". evil",
        "source evil",
        "time evil",
    ),
    *("coproc evil", "trap evil EXIT", "trap 'evil' 0", "alias ok=evil", "hash -p evil ok", "enable -f evil x"),
    *(
        "exec -a ok evil",
        "command -p evil",
        "command -v ok && evil",
        "type ok; evil",
        "nohup sh -c evil",
        "env sh -c evil",
    ),
    # the shell's own grammar
    *("(evil)", "( evil )", "{ evil; }", "if evil; then ok; fi", "if ok; then evil; fi", "while evil; do break; done"),
    *("until evil; do break; done", "for i in 1; do evil; done", "case x in x) evil;; esac", "f() { evil; }; f"),
    *(
        "function f { evil; }; f",
        "ok() { evil; }; ok",
        "[[ $(evil) ]]",
        "(( x = $(evil) ))",
        "! { evil; }",
        "select x in 1; do evil; done <<< 1",
    ),
    *("ok() (evil); ok", "if ! evil; then ok; fi", "for ((;;)); do evil; break; done", "{ ok; evil; }", "(ok; evil)"),
    # comments, quotes and ends
    *(
        "ok # x\nevil",
        "ok 'a\n'\nevil",
        "ok 'unfinished",
        'ok "unfinished',
        "ok \\",
        "ok `evil",
        "ok $(evil",
        "#\nevil",
    ),
    *("ok 'a'\\'';evil", 'ok "\\""; evil', 'ok "a\'"; evil "\'"', "ok 'a\"'; evil '\"'", "'ok; evil'", '"ok; evil"'),
    # nothing, and other programs by other ways
    *(
        "",
        " ",
        "\t",
        "''",
        '""',
        "evil",
        "evil ok",
        "/usr/bin/env",
        "ok/../evil",
        "ok\x00evil",
        "okevil",
        "ok\x0bevil",
        "OK",
    ),
    *(
        "ok\u00a0evil",
        "ok\u2028evil",
        "\u200bok",
        "ok\x0c",
        "\uff4f\uff4b",
        "ok\x1b",
        "!!",
        "!ok",
        "^ok^evil",
        "ok;",
        "ok &",
        "ok &&",
    ),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `bin` that is all of PATH: `ok` and `evil` tell when they run; and some real programs."""
    stage = tmp_path_factory.mktemp("stage")
    (stage / "bin").mkdir()
    (stage / "work").mkdir()
    for name in ("ok", "evil"):
        (stage / "bin" / name).write_text(f'#!/bin/sh\necho {name} >> "{stage}/ran"\n')
        (stage / "bin" / name).chmod(0o755)
    for name in REAL:
        (stage / "bin" / name).symlink_to(shutil.which(name) or "/nowhere")
    return stage


@pytest.fixture(scope="module")
def judges(stage: Path) -> list[Judge]:
    """By an allow-list, and by a policy, of which nothing but `ok` may run."""
    inherited = {"PATH": str(stage / "bin")}
    rules = Policy("deny", (Rule("allow", 1, program=("ok",)),))
    return [Judge(Config(allowed_commands=("ok",)), None, inherited), Judge(Config(), rules, inherited)]


def run_by_bash(stage: Path, command: str) -> set[str]:
    """Which of the programs run when a real Bash interprets a string."""
    ran = stage / "ran"
    ran.unlink(missing_ok=True)
    if "\0" in command or BASH is None:
        return set()
    subprocess.run(
        [BASH, "-c", command],
        env={"PATH": str(stage / "bin")},
        cwd=stage / "work",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=20,
    )
    return set(ran.read_text().split()) if ran.exists() else set()


def test_the_table_is_long_and_says_nothing_twice():
    """150 at least."""
    assert len(HOSTILE) == len(set(HOSTILE)) >= 150


@pytest.mark.parametrize("command", HOSTILE)
def test_a_hostile_string_is_refused(judges, command):
    """By either kind of rules, with a reason; never run in another way instead."""
    for judge in judges:
        with pytest.raises(RefusedError) as caught:
            judge.rule(question(None, command, "/bin/sh"), "x")
        assert str(caught.value)


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_most_of_the_table_is_hostile_indeed(stage):
    """A real Bash runs the forbidden program for most of it: what is refused is not refused for nothing."""
    ran_evil = [command for command in HOSTILE if "evil" in run_by_bash(stage, command)]
    assert len(ran_evil) >= 100


PIECES = [
    *(
        "ok",
        "ok ",
        "ok",
        " ",
        "\t",
        "evil",
        "evil",
        "a",
        "-x",
        "--y=z",
        "=",
        "'",
        '"',
        "\\",
        "$",
        "`",
        "(",
        ")",
        "{",
        "}",
    ),
    *(
        ";",
        "&",
        "|",
        "<",
        ">",
        "\n",
        "\r",
        "\v",
        "\f",
        "#",
        "!",
        "~",
        "*",
        "?",
        "[",
        "]",
        "%",
        "^",
        "@",
        ",",
        ":",
        "/",
        ".",
    ),
    *(
        "$(evil)",
        "'evil'",
        " evil",
        "X=1 ",
        "\u00a0",
        "\u2028",
        "é",
        "if ",
        "then ",
        "exec ",
        "eval ",
        "env ",
        "command ",
    ),
]
STRINGS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map(lambda pieces: "ok " + "".join(pieces)),
    st.lists(st.sampled_from(PIECES), max_size=4).map(lambda pieces: "ok '" + "".join(pieces) + "' evil"),
)


@pytest.mark.skipif(BASH is None, reason="needs bash")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STRINGS)
def test_what_is_admitted_runs_nothing_else(stage, judges, command):
    """Neither as it is run, word by word, nor if a real Bash interpreted it."""
    for judge in judges:
        try:
            ruling = judge.rule(question(None, command, "/bin/sh"), "x")
        except RefusedError:
            continue
        assert not ruling.spec.shell
        assert judge.resolve(ruling.spec.argv[0]) == str(stage / "bin" / "ok")
        assert run_by_bash(stage, command) <= {"ok"}


@pytest.mark.skipif(BASH is None, reason="needs bash")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=4))
def test_words_that_are_quoted_are_admitted_and_are_those_words(stage, judges, words):
    """Who quotes everything gets everything through, as a real Bash would understand it."""
    command = " ".join(["ok", *("'" + word.replace("'", "'\"'\"'") + "'" for word in words)])
    ruling = judges[0].rule(question(None, command, "/bin/sh"), "x")
    assert ruling.spec.argv == ("ok", *words)
    script = "printf '%s\\0' " + command.removeprefix("ok")
    seen = subprocess.run(
        [BASH or "", "-c", script], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert seen.stdout.split(b"\0")[:-1] == ([word.encode() for word in words] or [b""])
