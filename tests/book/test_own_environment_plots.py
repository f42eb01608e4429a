"""The figures of the page on one's own environment show the numbers they are given."""

import base64
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from recdqn.book import plots
from recdqn.book.plots import style
from recdqn.book.plots.own_environment import corridor_frames

EPISODES = {1: [[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], -1: [[0.5, 0.6], [0.7, 0.3], [0.8, 0.2]]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def test_curves_are_the_means_of_the_evaluations():
    rows = [{"frames": 100, "returns": [0, 1]}, {"frames": 200, "returns": [1, 1]}]
    fig = plots.memory_curves({"LSTM": rows, "without": rows[:1]}, chance=0.5)
    drawn = lines(fig.axes[0])
    assert drawn["LSTM"] == [0.5, 1] and drawn["without"] == [0.5]
    assert list(fig.axes[0].get_lines()[0].get_xdata()) == [100, 200]


def test_values_of_each_sign_have_their_panel():
    axes = plots.corridor_values(EPISODES).axes
    for ax, sign, title in zip(axes, (-1, 1), ("sign −1: left", "sign 1: right"), strict=True):
        left, right = np.transpose(EPISODES[sign]).tolist()
        assert ax.get_title() == f"{title} is correct" and lines(ax) == {"left": left, "right": right}


def test_figures_have_a_dark_twin():
    rows = [{"frames": 100, "returns": [0, 1]}]
    figures = plots.corridor_drawing(), plots.corridor_values(EPISODES), plots.memory_curves({"a": rows}, 0.5)
    for figure in figures:
        colours = set(re.findall(r"#[0-9A-F]{6}(?![\w.])", style.svg(figure).upper()))
        assert colours - set(style.DARK) == set()


def test_the_film_has_a_picture_for_each_step_and_shows_the_turn():
    frames = corridor_frames(EPISODES)
    assert len(frames) == len(EPISODES[1]) + 1
    last, half = frames[-1].astype(int), frames[-1].shape[1] // 2
    blue = (last[..., 2] > last[..., 0] + 100) & (np.arange(len(last))[:, None] < len(last) // 3)
    left, right = (rows.nonzero()[0].mean() for rows in (blue[:, :half], blue[:, half:]))
    assert left < right  # -1 turned up, which is left; 1 turned down
    html = plots.corridor_film(EPISODES)
    film = base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", html)[1])
    assert film[4:8] == b"ftyp" and "controls" in html and "aria-label" in html
