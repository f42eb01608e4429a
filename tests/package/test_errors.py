"""One-line error messages, and functions found by name."""

import subprocess

import pytest

from recdqn.errors import ConfigError, MissingAttribute, UserError, first_line, resolve


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (
            RuntimeError("\n  wrong size:\n\texpected 3\n\tsee the manual"),
            "RuntimeError: wrong size: expected 3",
        ),
        (KeyError("key"), "KeyError: 'key'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (SystemExit(3), "SystemExit: 3"),
        (ConfigError("seed=-1: expected more"), "seed=-1: expected more"),
        (UserError(), ""),
    ],
)
def test_first_line(error, line):
    assert first_line(error) == line


def test_first_line_is_shortened():
    line = first_line(ValueError("word " * 1_000))
    assert len(line) <= 300 and line.startswith("ValueError: word ") and line.endswith(" ...")


def test_resolve_finds_functions_methods_and_nested_modules():
    assert resolve("subprocess:run") is subprocess.run
    assert resolve("subprocess:Popen.wait") is subprocess.Popen.wait
    assert resolve("recdqn.errors:resolve") is resolve


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole-v1", "'CartPole-v1': expected 'module:function'"),
        (":make", "':make': expected 'module:function'"),
        ("module:", "'module:': expected 'module:function'"),
        (".relative:make", "'.relative:make': expected 'module:function'"),
        ("no_such_module:make", "there is no module 'no_such_module' here"),
        ("subprocess.no_such:make", "there is no module 'subprocess.no_such' here"),
        ("my_env.py:make", "there is no module 'my_env.py' here: name a file without its .py"),
        (
            "needs_something:make",
            "the module 'needs_something' cannot be imported: "
            "ModuleNotFoundError: No module named 'something_else'",
        ),
        (
            "needs_a_name:make",
            "the module 'needs_a_name' cannot be imported: ImportError: cannot import name 'no_such",
        ),
    ],
)
def test_names_that_cannot_be_resolved(name, message, tmp_path, monkeypatch):
    (tmp_path / "needs_something.py").write_text("import something_else")
    (tmp_path / "needs_a_name.py").write_text("from subprocess import no_such_name")
    (tmp_path / "my_env.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        resolve(name)
    assert str(error.value).startswith(message) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("path", ["no_such", "Popen.no_such", "Env-v0"])
def test_a_missing_attribute_raises_missing_attribute(path):
    """An environment's id may have the same form: "module:Env-v0"."""
    with pytest.raises(MissingAttribute, match=f"^the module 'subprocess' has no '{path}'$"):
        resolve(f"subprocess:{path}")


def test_an_exception_in_the_module_itself_is_not_caught(tmp_path, monkeypatch):
    (tmp_path / "divides_by_zero.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        resolve("divides_by_zero:make")
