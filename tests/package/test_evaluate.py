"""Evaluation and film, against episodes stepped in plain Gymnasium and PyTorch."""

import errno
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy import stats
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import QValueModule

from recdqn import Config, evaluate, make_env, make_policy
from recdqn.errors import ConfigError, UserError
from recdqn.evaluation import EVAL_SEED, Evaluation
from recdqn.film import film


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(3)
    cfg = Config.preset("masked-cartpole")
    env = make_env(cfg.env)
    return cfg, make_policy(cfg.policy, env)


def by_hand(cfg, policy, seed):
    """One greedy episode in plain Gymnasium with plain PyTorch calls."""
    features, lstm, head = policy[0].module, policy[1].lstm, policy[2].module
    env = gym.make("CartPole-v1")
    env.reset(seed=seed)  # TorchRL's set_seed resets once, and the episode is the one after
    observation, _ = env.reset()
    state, done, steps = None, False, 0
    with torch.no_grad():
        while not done:
            seen = torch.tensor([[cfg.env.scale[0] * observation[0], cfg.env.scale[1] * observation[2]]])
            out, state = lstm(features(seen.float())[:, None], state)
            observation, _, terminated, truncated, _ = env.step(int(head(out[:, -1]).argmax()))
            done, steps = terminated or truncated, steps + 1
    env.close()
    return steps


def test_episodes_match_a_loop_in_plain_gymnasium(agent):
    cfg, policy = agent
    result = evaluate(policy, cfg.env, episodes=6)
    expected = [by_hand(cfg, policy, EVAL_SEED + i) for i in range(6)]
    assert list(result.lengths) == expected
    assert result.returns == tuple(float(n) for n in expected)


def test_actions_are_greedy_when_epsilon_is_one(agent):
    cfg, policy = agent
    assert policy[-1].eps == 1.0
    assert evaluate(policy, cfg.env, episodes=4) == evaluate(policy, cfg.env, episodes=4)


@pytest.mark.parametrize("episodes", [1, 2, 7])
def test_number_of_episodes(agent, episodes):
    cfg, policy = agent
    result = evaluate(policy, cfg.env, episodes=episodes)
    assert len(result.returns) == len(result.lengths) == episodes


def test_another_seed_gives_different_episodes(agent):
    cfg, policy = agent
    assert evaluate(policy, cfg.env, episodes=20, seed=1) != evaluate(policy, cfg.env, episodes=20, seed=2)


def test_no_episodes_is_refused(agent):
    cfg, policy = agent
    with pytest.raises(ConfigError, match="episodes=0: expected a number of at least 1"):
        evaluate(policy, cfg.env, episodes=0)


def test_too_many_episodes_are_refused(agent):
    cfg, policy = agent
    with pytest.raises(ConfigError, match="^episodes=20000: expected a whole number from 1 to 10,000"):
        evaluate(policy, cfg.env, episodes=20_000)


def test_evaluation_changes_neither_random_state_nor_weights(agent):
    cfg, policy = agent
    before, weights = torch.get_rng_state(), [p.clone() for p in policy.parameters()]
    evaluate(policy, cfg.env, episodes=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(weights, policy.parameters(), strict=True))


def test_a_policy_without_memory():
    """It always pushes to the right, so the pole falls within a dozen steps."""
    env = make_env(Config.preset("masked-cartpole").env)
    network = TensorDictModule(torch.nn.Linear(2, 2), in_keys=["observation"], out_keys=["action_value"])
    with torch.no_grad():
        network.module.weight.zero_()
        network.module.bias.copy_(torch.tensor([0.0, 1.0]))
    policy = TensorDictSequential(network, QValueModule(spec=env.action_spec_unbatched))
    plain, expected = gym.make("CartPole-v1"), []
    for seed in range(EVAL_SEED, EVAL_SEED + 3):
        plain.reset(seed=seed)
        plain.reset()
        steps = 1
        while not plain.step(1)[2]:
            steps += 1
        expected.append(steps)
    assert list(evaluate(policy, Config.preset("masked-cartpole").env, episodes=3).lengths) == expected


def test_summary_against_numpy():
    returns = (9.0, 500.0, 20.0, 30.0, 200.0, 100.0, 50.0, 40.0)
    result = Evaluation(returns, tuple(map(int, returns)))
    assert result.mean == pytest.approx(np.mean(returns))
    assert result.iqm == pytest.approx(np.mean(sorted(returns)[2:6]))
    low, high = result.interval
    spread = stats.sem(returns)
    assert low < result.mean < high
    assert low == pytest.approx(result.mean - 1.96 * spread, abs=spread)
    assert high == pytest.approx(result.mean + 1.96 * spread, abs=spread)
    assert str(result).startswith("mean 118.6 (95 % interval ")


def wilson(successes, episodes):
    """Both ends of the interval by its formula."""
    z = stats.norm.ppf(0.975)
    p, n = successes / episodes, episodes
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


@pytest.mark.parametrize("successes", [0, 1, 52, 99, 100])
def test_the_interval_of_successes_is_wilsons(successes):
    result = Evaluation((1.0,) * successes + (0.0,) * (100 - successes), (11,) * 100)
    assert result.interval == pytest.approx(wilson(successes, 100))
    shifted = Evaluation((30.0,) * successes + (-10.0,) * (100 - successes), (11,) * 100)
    if 0 < successes < 100:
        assert shifted.interval == pytest.approx(np.array(wilson(successes, 100)) * 40 - 10)


def test_equal_returns_show_no_interval_unless_they_are_successes_or_failures():
    perfect = str(Evaluation((1.0,) * 100, (11,) * 100))
    assert perfect == "mean 1.00 (95 % interval 0.96 to 1.00), IQM 1.00, 100 episodes of 11 steps"
    longest = Evaluation((500.0,) * 4, (500,) * 4)
    assert longest.interval is None
    assert str(longest) == "mean 500.0 (all returns are equal), IQM 500.0, 4 episodes of 500 steps"


class Pays(gym.Env):
    """Ten steps with rewards of a given size."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    size = 1.0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), self.size * self.time, self.time == 10, False, {}


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(
    ("size", "text"),
    [(1e-4 / 55, "0.00010"), (1e6 / 55 + 0.01, "1000000.6"), (0.1, "5.50"), (-2e-9, "-0.00000011")],
)
def test_returns_of_any_size_are_reported_as_they_are(agent, size, text, foreign, monkeypatch):
    monkeypatch.setattr(Pays, "size", size)
    cfg = Config(env={"id": Pays, "num_envs": 2, "reward_scale": 0.003})
    policy = make_policy(cfg.policy, make_env(cfg.env))
    if foreign:
        policy = TensorDictSequential(*policy, TensorDictModule(torch.nn.Identity(), ["action"], ["action"]))
    result = evaluate(policy, cfg.env, episodes=2)
    expected = sum(size * time for time in range(1, 11))
    assert result.returns == pytest.approx([expected] * 2, rel=1e-5 if foreign else 1e-11, abs=0)
    if not foreign:
        assert str(result).startswith(f"mean {text} (all returns are equal)")


def test_film_shows_the_episode(agent, tmp_path):
    cfg, policy = agent
    steps = film(policy, cfg.env, tmp_path / "a.gif", seed=4)
    assert steps == by_hand(cfg, policy, EVAL_SEED + 4)
    pictures = iio.imread(tmp_path / "a.gif")
    assert pictures.shape == (-(-steps // 2), 200, 300, 3)
    assert (pictures[0] != pictures[-1]).any()
    film(policy, cfg.env, tmp_path / "a.mp4", seed=4)
    assert iio.improps(tmp_path / "a.mp4", plugin="FFMPEG").shape[1:] == (200, 300, 3)


@pytest.mark.parametrize(
    "name, message", [("a.avi", "must end in .gif or .mp4"), ("no/a.gif", "the folder .*no does not exist")]
)
def test_film_refuses_a_wrong_path_before_the_episode(agent, tmp_path, name, message):
    cfg, policy = agent
    with pytest.raises(UserError, match=message):
        film(policy, cfg.env, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.gif").mkdir()
    with pytest.raises(UserError, match="b.gif: it is a folder"):
        film(policy, cfg.env, tmp_path / "b.gif")


@pytest.mark.skipif(sys.platform != "linux", reason="writes into /proc")
@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_a_film_that_cannot_be_written_is_refused_before_the_episode(agent, ending, monkeypatch):
    cfg, policy = agent
    monkeypatch.setattr("recdqn.film.evaluation_env", None)  # not called
    with pytest.raises(UserError, match=f"cannot film into /proc/a.{ending}: No such file .*another place"):
        film(policy, cfg.env, f"/proc/a.{ending}")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("Path.write_bytes", OSError(errno.ENOSPC, "No space left on device"), "No space left on device;"),
        ("iio.imwrite", OSError("[Errno 32] Broken pipe\n\nFFMPEG COMMAND:"), "OSError: .*Broken pipe;"),
    ],
)
def test_a_film_that_fails_leaves_the_one_before(agent, function, error, message, tmp_path, monkeypatch):
    cfg, policy = agent
    path = tmp_path / "a.gif"
    path.write_bytes(b"before")

    def full(place, *_, **__):
        if isinstance(place, Path):
            place.write_text("half")
        raise error

    monkeypatch.setattr(f"recdqn.film.{function}", full)
    with pytest.raises(UserError, match=f"cannot film into .*a.gif: {message} choose another place"):
        film(policy, cfg.env, path)
    assert [(one, one.read_bytes()) for one in tmp_path.iterdir()] == [(path, b"before")]


class Draws(Pays):
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    frame = None

    def render(self):
        return Draws.frame(self.time)


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (lambda t: np.full((60, 80, 3), t / 6), r"\[60, 80, 3\] of float64, expected"),
        (lambda t: np.full((60, 80, 1), 200, np.uint8), r"\[60, 80, 1\] of uint8, expected"),
        (lambda t: np.full((60, 80, 3), 200), r"\[60, 80, 3\] of int64, expected"),
        (
            lambda t: np.full((60 + 4 * t, 80, 3), 200, np.uint8),
            r"\[64, 80, 3\] of uint8, .*same size",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_frames_that_no_film_holds_are_refused_in_one_line(frame, found, ending, tmp_path, monkeypatch):
    monkeypatch.setattr(Draws, "frame", staticmethod(frame))
    cfg = Config(env={"id": Draws})
    policy = make_policy(cfg.policy, make_env(cfg.env))
    with pytest.raises(UserError, match=f"Draws cannot be filmed: its render gives an array {found}"):
        film(policy, cfg.env, tmp_path / f"film.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_the_first_name_of_the_module_is_still_a_function(agent):
    import recdqn.evaluate

    cfg, policy = agent
    assert recdqn.evaluate(policy, cfg.env, 2) == evaluate(policy, cfg.env, 2)
    assert recdqn.evaluate.film is film
