"""Lists of tasks in files, and how far they have come."""

import json
from pathlib import Path

import pytest

from ccexecctl.api.results import AgentResult, Usage, Validation
from ccexecctl.api.task_file import State, read_tasks
from ccexecctl.api.task_list import Status, Task, TaskResult
from ccexecctl.errors import CtlError, UsageError

TOML = """
on_failure = "continue"
[options]
timeout = 600
[[task]]
name = "plan"
prompt = "Make a plan."
[[task]]
depends = ["plan"]
prompt = "Judge it: {{plan}}"
model = "opus"
"""

MARKDOWN = """# A list

What stands here belongs to no task.

## plan

Make a plan.

```sh
## this is no heading
```

### Nor does this one begin a task

Depends: is a word like any other here.

## the *judge*
depends: plan
timeout: 600
allowed_tools: Bash, Read

Judge it: {{plan}}
"""


def written(directory: Path, name: str, text: str) -> Path:
    """A file with a text in it."""
    path = directory / name
    path.write_text(text)
    return path


def test_toml(tmp_path):
    """Tasks, their names (or numbers), what they depend on, and options for all and for one."""
    found = read_tasks(written(tmp_path, "tasks.toml", TOML))
    assert found.tasks == (
        Task("Make a plan.", "plan"),
        Task("Judge it: {{plan}}", "2", ["plan"], {"model": "opus"}),
    )
    assert (found.options, found.on_failure) == ({"timeout": 600}, "continue")


def test_markdown(tmp_path):
    """Headings of the second level are tasks, as CommonMark understands them; the prompt is left as it is written."""
    plan, judge = read_tasks(written(tmp_path, "tasks.md", MARKDOWN)).tasks
    assert (plan.name, plan.depends) == ("plan", ())
    assert plan.prompt.startswith("Make a plan.\n\n```sh\n## this is no heading\n```\n\n### Nor")
    assert plan.prompt.endswith("here.")
    options = {"timeout": 600, "allowed_tools": ["Bash", "Read"]}
    assert judge == Task("Judge it: {{plan}}", "the *judge*", ["plan"], options)


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line_of_markdown(tmp_path, odd):
    """Other characters that end lines elsewhere stay in a prompt, and what follows is where it belongs."""
    one, two = read_tasks(written(tmp_path, "tasks.md", f"## one\r\nSay{odd}this.\r\n## two\nSay that.")).tasks
    assert (one.prompt, two.prompt) == (f"Say{odd}this.", "Say that.")


@pytest.mark.parametrize(("name", "text"), [("a.md", "## 1\nSay this."), ("a.toml", "[[task]]\nprompt = 'Say this.'")])
def test_a_mark_of_utf_8_is_no_text(tmp_path, name, text):
    """Some editors put one at the beginning."""
    assert read_tasks(written(tmp_path, name, "\ufeff" + text)).tasks == (Task("Say this.", "1"),)


def test_a_value_in_markdown_is_what_its_option_takes(tmp_path):
    """What TOML would take for a number is a text where a text belongs."""
    text = '## one\nmodel: 4\nresume: 123e4567\nmax_turns: 3\nallowed_tools: ["Bash"]\n\nSay this.'
    (one,) = read_tasks(written(tmp_path, "tasks.md", text)).tasks
    assert one.options == {"model": "4", "resume": "123e4567", "max_turns": 3, "allowed_tools": ["Bash"]}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "[[task", "not TOML"),
        ("a.toml", "x = " + "[" * 10_000, "not TOML"),
        ("a.toml", "x = 1", "no key 'x'"),
        ("a.toml", "task = 1", "no tasks"),
        ("a.toml", "[[task]]\nname = 'x'", "task 1 needs a prompt"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\nmodle = 'opus'", "no option 'modle'"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\ndepends = 'x'", "depends is a list"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\ndepends = ['y']", "depends on 'y'"),
        ("a.toml", "on_failure = 'go'\n[[task]]\nprompt = 'x y z'", "on_failure"),
        ("a.toml", "options = 3\n[[task]]\nprompt = 'x y z'", "not a table"),
        ("a.toml", "[options]\ntimeout = '10m'\n[[task]]\nprompt = 'x y z'", r"\[options\]: timeout takes a number"),
        ("a.toml", "[[task]]\nprompt = 'x y z'\ntimeout = 2026-01-31", "task 1: timeout takes a number"),
        ("a.toml", "[options]\nlabels = {a = 1}\n[[task]]\nprompt = 'x y z'", "labels takes a table of texts"),
        ("a.md", "# nothing", "no tasks"),
        ("a.md", "## x\ntimeout: 10m\n\none", "x: timeout takes a number"),
        ("a.md", "## x\ntimeout: " + "[" * 10_000 + "\n\none", "x: timeout takes a number"),
        ("a.md", "## x\n\n## y\ntwo", "x needs a prompt"),
        ("a.md", "## x\none\n## x\ntwo", "two tasks are called 'x'"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, name, text, told):
    """With the file, the place, and what would be right."""
    with pytest.raises(UsageError, match=told) as refused:
        read_tasks(written(tmp_path, name, text))
    assert name in refused.value.message


def test_files_that_are_none(tmp_path):
    """Missing, or not text."""
    with pytest.raises(UsageError, match="cannot read"):
        read_tasks(tmp_path / "missing.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_tasks(tmp_path / "a.toml")


RESULT = AgentResult(
    *(
        "uuid",
        "session",
        "2026-01-01T00:00:00+00:00",
        "task",
        "said",
        {"a": [1]},
        None,
        "",
        "success",
        0,
        "exited",
        1.5,
    ),
    usage=Usage(1, 2, others=(("x", 3),)),
    files_created=("/a",),
    validation=Validation(True, "fine", "other"),
)


def test_a_result_comes_back_from_json():
    """What is kept in a file is the same again."""
    assert AgentResult.from_dict(json.loads(json.dumps(RESULT.as_dict()))) == RESULT


def test_what_is_done_is_remembered(tmp_path):
    """Until the task or what goes into it changes."""
    task, path = Task("Make a plan.", "plan"), tmp_path / "state.json"
    state = State(path)
    assert state.recall(task, task.prompt) is None
    state.begin(task, task.prompt)
    assert State(path).recall(task, task.prompt) is None
    state.note(TaskResult("plan", Status.DONE, RESULT))
    assert State(path).recall(task, task.prompt) == TaskResult("plan", Status.DONE, RESULT)
    assert State(path).recall(task, "another prompt") is None
    assert State(path).recall(Task("Make a plan.", "plan", options={"model": "opus"}), task.prompt) is None


def test_what_was_under_way_keeps_its_key(tmp_path):
    """A task that was cut off is asked for with the same key; one that failed, or is begun anew, with another."""
    task, path = Task("Make a plan.", "plan"), tmp_path / "state.json"
    key = State(path).begin(task, task.prompt)
    assert State(path).begin(task, task.prompt) == key
    anew = State(path).begin(task, task.prompt, anew=True)
    assert anew != key
    state = State(path)
    state.note(TaskResult("plan", Status.FAILED, error="no"))
    assert State(path).begin(task, task.prompt) not in (key, anew)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "no JSON",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 1, "run": "x", "tasks": []}',
        '{"version": 1, "run": 3, "tasks": {}}',
        '{"version": 1, "run": "x", "tasks": {"a": null}}',
        '{"version": 1, "run": "x", "tasks": {"a": {"digest": "x", "attempt": "1", "status": "running"}}}',
        '{"version": 1, "run": "x", "tasks": {"a": {"digest": "x", "attempt": 1, "status": "done"}}}',
        '{"version": 1, "run": "x", "tasks": {"a": {"digest": "x", "attempt": 1, "status": "done", "result": {}}}}',
    ],
)
def test_a_state_that_is_none_is_left_alone(tmp_path, text):
    """Somebody else's file, or one that was edited or cut off, is told of and not overwritten."""
    with pytest.raises(CtlError):
        State(written(tmp_path, "state.json", text))
    assert (tmp_path / "state.json").read_text() == text
