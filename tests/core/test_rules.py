"""Rules in order: what each condition means, which rule decides, and what it says of itself."""

import pytest

from ccexecd.core.rules import Policy, Rule, Wish, is_wrapper, warnings_of

FILES = {
    "git": "/usr/bin/git",
    "/usr/bin/git": "/usr/bin/git",
    "/bin/git": "/usr/bin/git",
    "ls": "/usr/bin/busybox",
    "sh": "/usr/bin/busybox",
    "tool": "/opt/tool/bin/tool",
}


def wish(*argv: str, **more: object) -> Wish:
    program = FILES.get(argv[0], argv[0])
    given = {
        "path": f"/usr/bin/{argv[0]}" if "/" not in argv[0] else argv[0],
        "program": program,
        "is_in_path": "/" not in argv[0] or argv[0].startswith("/usr/bin/"),
        "cwd": "/srv/repos/a",
        "environment": (),
        "principal": "uid 1000",
    }
    return Wish(argv, **{**given, **more})  # type: ignore[arg-type]


def holds(rule: Rule, asked: Wish) -> bool:
    return rule.miss(asked, FILES.get) is None


@pytest.mark.parametrize(
    ("entry", "argv0", "allowed", "denied"),
    [
        ("git", "git", True, True),
        ("git", "/usr/bin/git", True, True),
        ("git", "/bin/git", True, True),
        ("/usr/bin/git", "git", True, True),
        ("git", "ls", False, False),
        ("ls", "ls", True, True),
        ("ls", "sh", False, True),  # one file is both: what a rule allows is called by its name
        ("git", "/tmp/git", False, True),  # another file of that name
        ("nosuch", "git", False, False),
        ("g*", "git", True, True),
        ("g*", "/tmp/git", False, True),  # not in PATH
        ("/usr/bin/*", "git", True, True),
        ("/usr/bin/*", "tool", False, True),  # lies there as a link, and leads out
        ("/opt/**", "tool", True, True),
        ("/opt/*", "tool", False, False),
    ],
)
def test_a_program_is_meant_by_name_and_file(entry, argv0, allowed, denied):
    """A rule that allows has to be certain; one that denies needs a suspicion only."""
    assert holds(Rule("allow", program=(entry,)), wish(argv0)) is allowed
    assert holds(Rule("deny", program=(entry,)), wish(argv0)) is denied


@pytest.mark.parametrize(
    ("conditions", "arguments", "expected"),
    [
        ({"arguments": ("status",)}, ("status",), True),
        ({"arguments": ("status",)}, ("status", "-s"), True),
        ({"arguments": ("status",)}, ("-c", "status"), False),
        ({"arguments": ("log", "--format=*")}, ("log",), False),
        ({"arguments": ()}, (), True),
        ({"every_argument": ("-?", "*.txt")}, ("-a", "b.txt"), True),
        ({"every_argument": ("-?", "*.txt")}, ("-a", "b.sh"), False),
        ({"every_argument": ()}, (), True),
        ({"every_argument": ()}, ("x",), False),
        ({"any_argument": ("push",)}, ("-C", "x", "push"), True),
        ({"any_argument": ("push",)}, ("pull",), False),
        ({"no_argument": ("-c*", "--exec-path*")}, ("status",), True),
        ({"no_argument": ("-c*", "--exec-path*")}, ("-ccore.pager=x", "status"), False),
        ({"every_argument": ("re:[a-z]+",)}, ("abc",), True),
        ({"every_argument": ("re:[a-z]+",)}, ("abc\n",), False),
    ],
)
def test_arguments_are_held_against_patterns(conditions, arguments, expected):
    """By position, each, some or none."""
    assert holds(Rule("allow", **conditions), wish("git", *arguments)) is expected


def test_what_cannot_be_judged_is_not_allowed_and_is_denied():
    """An argument that is too long for an expression."""
    asked = wish("git", "a" * 5000)
    assert not holds(Rule("allow", every_argument=("re:a*",)), asked)
    assert not holds(Rule("allow", no_argument=("re:b*",)), asked)
    assert holds(Rule("deny", any_argument=("re:b*",)), asked)


@pytest.mark.parametrize(
    ("roots", "cwd", "expected"),
    [
        (("/srv/repos",), "/srv/repos", True),
        (("/srv/repos/",), "/srv/repos/a/b", True),
        (("/srv/repos",), "/srv/repos2", False),
        (("/srv/repos",), "/srv", False),
        (("/",), "/", True),
        (("/",), "/x", True),
        ((), "/", False),
    ],
)
def test_a_directory_is_one_of_them_or_below(roots, cwd, expected):
    """Whole names count."""
    assert holds(Rule("allow", cwd=roots), wish("git", cwd=cwd)) is expected


def test_environment_names_and_principals():
    """Which names a client may set, which not, and who may ask."""
    asked = wish("git", environment=("LANG", "GIT_DIR"))
    assert holds(Rule("allow", environment=("LANG", "GIT_*")), asked)
    assert not holds(Rule("allow", environment=("LANG",)), asked)
    assert not holds(Rule("allow", environment=()), asked)
    assert not holds(Rule("allow", no_environment=("GIT_*",)), asked)
    assert holds(Rule("allow", no_environment=("PATH",)), asked)
    assert holds(Rule("allow", principal=("uid 1*",)), asked)
    assert not holds(Rule("allow", principal=("token*",)), asked)


def test_the_first_rule_that_matches_decides():
    """The others are told with why they did not."""
    policy = Policy(
        "deny",
        (
            Rule("deny", 1, "no push", program=("git",), any_argument=("push",)),
            Rule("allow", 2, program=("git",)),
            Rule("deny", 3),
        ),
    )
    refused = policy.decide(wish("git", "push"), FILES.get)
    assert (refused.allowed, refused.reason, refused.steps) == (False, "rule 1 (no push) denies it", ())
    allowed = policy.decide(wish("git", "pull"), FILES.get)
    assert (allowed.allowed, allowed.reason) == (True, "rule 2 allows it")
    assert allowed.steps == (("rule 1 (no push)", "none of its arguments is there"),)


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_the_default_decides_where_no_rule_does(default):
    """And says so."""
    decision = Policy(default, (Rule("deny", 1, program=("nosuch",)),)).decide(wish("git"), FILES.get)
    assert decision.allowed is (default == "allow")
    assert decision.reason == f"no rule matches, and the default is {default}"
    assert decision.steps == (("rule 1", "/usr/bin/git as 'git' is none of its programs"),)


@pytest.mark.parametrize("name", ["env", "/usr/bin/python3", "python3.11", "sh", "xargs", "find", "timeout", "sudo"])
def test_programs_that_run_others_are_known(name):
    """Whoever allows one with any argument is told what that means."""
    assert is_wrapper(name)
    (warning,) = Policy("deny", (Rule("allow", 1, program=(name, "ls")),)).warnings()
    assert warning == f"rule 1 allows {name} with any argument, and so every program: it runs what it is told"
    assert warnings_of(["ls", name]) == [
        f"allowed_commands allows {name} with any argument, and so every program: it runs what it is told"
    ]
    assert Policy("deny", (Rule("allow", 1, program=(name,), every_argument=("--version",)),)).warnings() == []
    assert Policy("allow", (Rule("deny", 1, program=(name,)),)).warnings() == []


def test_rules_that_allow_more_than_they_seem_to_say_so():
    """A rule without a program, and a folder full of shells."""
    policy = Policy("deny", (Rule("allow", 1), Rule("allow", 2, program=("/usr/bin/*",))))
    assert policy.warnings() == [
        "rule 1 allows every program",
        "rule 2 allows /usr/bin/*: shells and interpreters in there run everything",
    ]


def test_a_policy_can_be_shown():
    """As it was written, without what it does not say."""
    policy = Policy("deny", (Rule("allow", 1, "x", program=("git",), every_argument=()),))
    assert policy.as_public_dict() == {
        "default": "deny",
        "rules": [{"action": "allow", "place": 1, "name": "x", "program": ["git"], "every_argument": []}],
    }
