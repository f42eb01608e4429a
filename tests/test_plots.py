"""The figures show the numbers they are given."""

import matplotlib.pyplot as plt
import pytest
import torch

from recdqn import Config, make_env, make_policy, plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines}


def test_learning_curves_draw_means_against_frames():
    one = [{"frames": 100, "returns": [10.0, 20.0]}, {"frames": 200, "returns": [500.0, 400.0]}]
    two = [{"frames": 150, "returns": [30.0]}]
    fig = plots.learning_curves({"one": one}, behind={"two": two})
    drawn = lines(fig.axes[0])
    assert drawn["one"] == [[100, 15], [200, 450]]
    assert drawn["two"] == [[150, 30]]
    solved = Config.preset("masked-cartpole").train.solved_return
    assert [0, solved] in [data[0] for data in drawn.values()]


def test_replay_counts_draw_every_step_of_every_episode():
    short, long = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.0, 0.25])
    fig = plots.replay_counts({"a": (short, long), "b": (long, short)})
    first, second = (lines(ax) for ax in fig.axes)
    assert [y for _, y in first["episode of 2 steps"]] == short.tolist()
    assert [y for _, y in second["episode of 3 steps"]] == long.tolist()


def test_policy_graph_names_every_module_and_key():
    cfg = Config.preset("masked-cartpole")
    policy = make_policy(cfg.policy, make_env(cfg.env))
    text = " ".join(t.get_text() for t in plots.policy_graph(policy).axes[0].texts)
    for module in policy:
        assert type(getattr(module, "module", module)).__name__ in text
        for key in module.in_keys:
            assert f'"{key}"' in text


def test_style_leaves_the_readers_settings_alone():
    before = dict(plt.rcParams)
    with plots.style():
        assert plt.rcParams["axes.spines.top"] is False
        fig, _ = plt.subplots()
    assert dict(plt.rcParams) == before
    assert fig.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # readable on a dark page
