"""Wrappers that learn statistics, against statistics computed from plain Gymnasium's observations."""

import gymnasium as gym
import numpy as np
import pytest

from recdqn import Config, evaluate, load_checkpoint, make_env, make_policy, train
from recdqn.envs import make_vector_env
from recdqn.envs.replayable import Replayable, freeze_statistics, get_statistics
from recdqn.errors import UserError
from recdqn.film import film


def observations():
    return gym.wrappers.NormalizeObservation(gym.make("CartPole-v1", render_mode="rgb_array"))


def rewards():
    return gym.wrappers.NormalizeReward(gym.make("CartPole-v1"))


def both():
    return gym.wrappers.NormalizeReward(observations())


def settings(make, **values):
    return Config(env={"id": make, "num_envs": 3} | values)


def plain_steps(seed, actions):
    """CartPole's own observations, of one copy: those of a reset, and of steps, until an episode ends."""
    env = gym.make("CartPole-v1")
    seen = [env.reset(seed=seed)[0]]
    for action in actions:
        seen.append(env.step(action)[0])
    return np.array(seen)


@pytest.mark.parametrize("workers", [False, True])
def test_an_evaluation_uses_the_statistics_of_all_copies(workers):
    cfg = settings(observations, workers=workers).env
    envs, actions = make_vector_env(cfg), [0, 1, 1, 0, 1]
    envs.reset(seed=[1, 2, 3])
    for action in actions:
        envs.step(np.full(3, action))
    found = get_statistics(envs)
    envs.close()
    data = np.concatenate([plain_steps(seed, actions) for seed in (1, 2, 3)]).astype(float)
    (values,) = found.values()
    np.testing.assert_allclose(values["mean"], data.mean(0), atol=1e-5)
    np.testing.assert_allclose(values["var"], data.var(0), atol=3e-4)  # each copy begins with a count of 1e-4

    fresh = make_vector_env(cfg)
    freeze_statistics(fresh, found, "task")
    seen = [fresh.reset(seed=[7, 8, 9])[0], *(fresh.step(np.full(3, action))[0] for action in actions)]
    assert next(iter(get_statistics(fresh).values()))["mean"] == pytest.approx(values["mean"])
    fresh.close()
    for copy, seed in enumerate((7, 8, 9)):
        expected = (plain_steps(seed, actions) - values["mean"]) / np.sqrt(np.array(values["var"]) + 1e-8)
        np.testing.assert_allclose([step[copy] for step in seen], expected, rtol=1e-4, atol=1e-5)


def test_normalised_rewards_are_reported_as_they_were():
    cfg = settings(rewards)
    result = evaluate(make_policy(cfg.policy, make_env(cfg.env)), cfg.env, 5)
    assert result.returns == tuple(map(float, result.lengths))  # one point each


def test_a_run_keeps_its_statistics(tiny, tmp_path):
    run = train(tiny.replace(env={"id": both}), out=tmp_path / "run", progress=False)
    (values,) = run.statistics.values()
    assert values["count"] > tiny.train.total_frames  # all steps and the resets
    saved = load_checkpoint(tmp_path / "run")
    assert saved.statistics == run.statistics
    result = evaluate(saved.policy, saved.cfg.env, 4, statistics=saved.statistics)
    assert result.returns == tuple(map(float, result.lengths))
    film(saved.policy, saved.cfg.env, tmp_path / "film.gif", statistics=saved.statistics)
    for call, *rest in ((evaluate, 4), (film, tmp_path / "a.gif")):
        with pytest.raises(UserError, match="has a wrapper that learns .*NormalizeObservation.obs_rms"):
            call(run.policy, run.cfg.env, *rest)


def test_actors_are_refused(tiny):
    cfg = tiny.replace(env={"id": observations}, scale={"actors": 1})
    with pytest.raises(UserError, match="learns statistics .*: expected scale.actors=0"):
        train(cfg, progress=False)


def test_an_episode_goes_on_with_its_statistics():
    first, second = Replayable(both()), Replayable(both())
    first.reset(seed=4)
    for step in range(60):
        if any(first.step(step % 2)[2:4]):
            first.reset()
    second.reset(seed=5)
    assert second.restore(first.episode) == "exact"
    for action in (0, 1, 1):
        ours, theirs = first.step(action), second.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
