"""The command line of the recorded grids: an unknown name and a stop end with one line."""

import sys

import pytest

import benchmarks.__main__ as rows
from benchmarks import bugs, grids, memory, r2d2
from recdqn.run.signals import Stopped


@pytest.mark.parametrize("main", [rows.main, r2d2.main, memory.main, bugs.main])
def test_an_unknown_name_is_one_line_that_lists_or_suggests_names(main, monkeypatch, capsys):
    for name, advice in {"corridor-1o": "did you mean", "?": "choose one of"}.items():
        monkeypatch.setattr(sys, "argv", ["benchmarks", name])
        with pytest.raises(SystemExit) as stop:
            grids.command(main)
        assert f"'{name}' is unknown" in stop.value.code and "\n" not in stop.value.code
        assert advice in stop.value.code or main is rows.main
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [
        (Stopped(15, "stopped; the same command goes on"), 143, "stopped; the same command goes on"),
        (KeyboardInterrupt(), 130, "goes on with a grid, and repeats a row"),
    ],
)
def test_a_stopped_grid_exits_as_shells_expect(stop, status, said, monkeypatch, capsys):
    def main() -> None:
        raise stop

    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    with pytest.raises(SystemExit) as exit:
        grids.command(main)
    assert exit.value.code == status
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_names_are_chosen_from_the_known_ones():
    assert grids.choose((), ("a", "b")) == ("a", "b")
    assert grids.choose(("b",), ("a", "b")) == ("b",)
