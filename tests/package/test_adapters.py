"""Memory tasks of other packages, played by hand: what an observation means, and what memory is worth."""

import importlib.util
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from recdqn import Config, add_primers, diagnose, make_env, make_policy, train
from recdqn.config import EnvConfig
from recdqn.envs.replayable import Replayable, get_episodes, restore_episodes
from recdqn.errors import ConfigError

POPGYM = ("RepeatPreviousEasy", "AutoencodeEasy", "CountRecallEasy")
MINIGRID = ("MiniGridMemoryS7", "MiniGridMemoryS9", "MiniGridMemoryS11", "MiniGridMemoryS13")
PACKAGE = dict.fromkeys(POPGYM, "popgym") | dict.fromkeys(MINIGRID, "minigrid")
ALL = pytest.mark.parametrize("name", PACKAGE)
KEY, BALL = 3, 4  # columns of a square
LEFT, RIGHT, AHEAD = range(3)


def make(name, shown=False, **kwargs):
    pytest.importorskip(PACKAGE[name], reason="pip install 'recdqn[envs]'")
    return gym.make(f"recdqn/{name}{'Shown' if shown else ''}-v0", **kwargs)


def settings(name, **values):
    whole = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0}
    return EnvConfig(id=f"recdqn/{name}-v0", **whole | values)


def play(env, player, seed):
    """Play an episode; ``player`` takes all observations so far. Return the return and the steps."""
    seen, total, over = [env.reset(seed=seed)[0]], 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(player(seen))
        seen.append(observation)
        total += reward
        over = terminated or truncated
    return total, len(seen) - 1


def mean_return(env, player, episodes):
    return np.mean([play(env, player, seed)[0] for seed in range(episodes)])


def three_ago(seen):
    return int(seen[max(len(seen) - 4, 0)].argmax())


def backwards(seen):
    watched = 52  # the observation is [watching or not, 2], then the suit, [4]
    return int(seen[min(2 * watched - 1 - len(seen), len(seen) - 1)][2:6].argmax())


def counting(seen):
    """The observation is the colour dealt, [2], and the colour asked for, [2]."""
    return Counter(int(one[:2].argmax()) for one in seen)[int(seen[-1][2:4].argmax())]


@pytest.mark.parametrize(
    ("name", "player", "size", "actions", "steps"),
    [
        ("RepeatPreviousEasy", three_ago, 4, 4, 51),
        ("AutoencodeEasy", backwards, 6, 4, 103),
        ("CountRecallEasy", counting, 4, 27, 51),
    ],
)
def test_memory_wins_a_card_game(name, player, size, actions, steps):
    env = make(name)
    assert env.observation_space.shape == (size,) and env.action_space.n == actions
    for seed in range(5):
        assert play(env, player, seed) == (pytest.approx(1.0), steps)


@pytest.mark.parametrize("name", POPGYM)
def test_a_card_game_that_shows_all_needs_no_memory(name):
    twin = make(name, shown=True)
    size = make(name).observation_space.shape[0]
    for seed in range(5):
        assert play(twin, lambda seen: int(seen[-1][size:].argmax()), seed)[0] == pytest.approx(1.0)


def test_without_memory_a_card_is_guessed():
    """One suit in four is right, and a wrong answer costs as much as a right one gives."""
    for name in ("RepeatPreviousEasy", "AutoencodeEasy"):
        rng = np.random.default_rng(0)
        guessed = mean_return(make(name), lambda seen, rng=rng: int(rng.integers(4)), episodes=50)
        assert guessed == pytest.approx(-0.5, abs=0.06)


def view(observation):
    """The kinds of the squares: [across, away], the agent at [3, 6] looks towards [3, 0]."""
    return observation[:245].reshape(7, 7, 5).argmax(-1)


def objects(seen):
    """Where the key and the ball are in view."""
    return {(kind, tuple(map(int, at))) for kind in (KEY, BALL) for at in np.argwhere(view(seen) == kind)}


def ends(now):
    """At the junction, facing ahead or back: the objects to the left and to the right, by kind."""
    sides = {(1, 6): LEFT, (5, 6): RIGHT}
    found = {kind: sides[at] for kind, at in now if at in sides}
    return found if len(found) == 2 else {}


def goes_back(seen):
    """Remember the object: turn around, walk until it is in view, and walk to the junction."""
    views = [objects(one) for one in seen]
    first = next((k for k, now in enumerate(views[2:], 2) if now), None)  # faces back since then
    if len(seen) <= 2:
        return LEFT
    if first is None:
        return AHEAD
    if len(seen) - first <= 2:
        return LEFT
    ((wanted, _),) = views[first]
    return ends(views[-1]).get(wanted, AHEAD) if not any(map(ends, views[:-1])) else AHEAD


@pytest.mark.parametrize("name", MINIGRID)
def test_memory_finds_the_object(name):
    env = make(name)
    size = int(name.rpartition("S")[2])
    assert env.observation_space.shape == (245,) and env.action_space.n == 3
    for seed in range(30):
        total, steps = play(env, goes_back, seed)
        assert total == pytest.approx(1 - 0.9 * steps / (5 * size**2))
        assert total > 0.9


def looks_back(seen):
    """Remember one observation: at the junction turn around, and then to the side that the view tells."""
    now, before = objects(seen[-1]), objects(seen[-2]) if len(seen) > 1 else set()
    if ends(now) and len(now) == 3:
        ((wanted, _),) = {(kind, at) for kind, at in now if at not in {(1, 6), (5, 6)}}
        return ends(now)[wanted]
    if ends(now):
        return LEFT
    if now and next(iter(now))[1] == (3, 4):  # looks to one side
        return AHEAD if len(before) == 3 else LEFT
    return AHEAD


@pytest.mark.parametrize("name", MINIGRID[:2])
def test_two_observations_suffice_in_the_small_sizes(name):
    env = make(name)
    for seed in range(30):
        total, steps = play(env, lambda seen: looks_back(seen[-2:]), seed)
        assert total > 0.9 and steps <= 10


@pytest.mark.parametrize("name", MINIGRID[2:])
def test_the_junction_tells_nothing_in_the_larger_sizes(name):
    """All pictures there, looking back, are those of both answers."""
    env = make(name)
    answers = {}
    for seed in range(60):
        env.reset(seed=seed)
        inner = env.unwrapped
        inner.agent_pos, inner.agent_dir = (inner.width - 2, inner.height // 2), 2
        image = inner.gen_obs()["image"].tobytes()
        answers.setdefault(image, set()).add(inner.success_pos[1] < inner.height // 2)
    assert list(map(len, answers.values())) == [2, 2]


@pytest.mark.parametrize("name", MINIGRID)
def test_the_object_stays_shown(name):
    env = make(name, shown=True)
    for seed in range(10):
        first = env.reset(seed=seed)[0]
        inner = env.unwrapped
        there = inner.grid.get(1, inner.height // 2 - 1).type
        assert first[245:].tolist() == [float(there == "key"), float(there == "ball")]
        assert (env.step(LEFT)[0][245:] == first[245:]).all()


@ALL
@pytest.mark.parametrize("shown", [False, True], ids=["hidden", "shown"])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_accepts_it(name, shown):
    check_env(make(name, shown), skip_render_check=True)


@ALL
def test_its_observations_are_zeros_and_ones(name):
    env = make(name)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(200):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation.dtype == np.float32 and set(observation.tolist()) <= {0.0, 1.0}
        if name in MINIGRID:
            assert (observation.reshape(49, 5).sum(-1) == 1).all()
        if terminated or truncated:
            env.reset()


@ALL
def test_an_episode_goes_on_exactly(name):
    env, other = (Replayable(make(name)) for _ in range(2))
    actions = np.random.default_rng(0).integers(env.action_space.n, size=60)
    env.reset(seed=0)
    other.reset(seed=1)
    for action in actions[:20]:
        if any(env.step(action)[2:4]):
            env.reset()
    assert restore_episodes(other, get_episodes(env), seconds=600.0) == "exact"
    for action in actions[20:]:
        one, two = env.step(action), other.step(action)
        assert (one[0] == two[0]).all() and one[1:4] == two[1:4]
        if any(one[2:4]):
            assert (env.reset()[0] == other.reset()[0]).all()


@ALL
def test_the_doctor_finds_nothing(name):
    make(name)
    env = make_env(settings(name, num_envs=2))
    policy = make_policy(Config().policy, env)
    assert diagnose(env=add_primers(env, policy), policy=policy).findings == ()
    env.close()


@pytest.mark.parametrize("name", ["repeat_previous", "autoencode", "count_recall", "minigrid_memory"])
def test_it_trains_by_its_function(name):
    pytest.importorskip("minigrid" if "minigrid" in name else "popgym", reason="pip install 'recdqn[envs]'")
    cfg = Config(
        env={**vars(settings("x", num_envs=4)), "id": f"recdqn.envs.adapters:{name}"},
        policy={"hidden_size": 8, "features": 8, "head": 8},
        replay={"capacity": 512, "slice_len": 8, "slices": 4},
        train={"total_frames": 128, "warmup_frames": 64, "frames_per_batch": 64, "eval_every": 2},
    )
    run = train(cfg, progress=False)
    assert all(torch.isfinite(p).all() for p in run.policy.parameters())
    assert np.isfinite(run.metrics[-1]["loss"])


def test_minigrid_draws():
    make("MiniGridMemoryS7")
    env = make_env(settings("MiniGridMemoryS7", num_envs=1))
    env.reset()
    assert env.render().shape == (224, 224, 3)
    env.close()


@ALL
def test_a_missing_package_is_named(name, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == PACKAGE[name] else found(n))
    message = rf"cannot be made: {PACKAGE[name]} is not installed: pip install 'recdqn\[envs\]'"
    with pytest.raises(ConfigError, match=message):
        make_env(settings(name))


@pytest.mark.parametrize(
    ("name", "settings", "seen"),
    [
        ("ALE/Pong-v5", {"arrays": ("picture",)}, {"pixels": (1, 84, 84)}),
        ("ALE/Pong-v5", {"observation": "pixels"}, {"pixels": (1, 84, 84)}),
        (
            "MiniGrid-Empty-5x5-v0",
            {"entries": ("image", "direction"), "arrays": ("grid",)},
            {"codes": (147,), "observation": (4,)},
        ),
        ("popgym-RepeatPreviousEasy-v0", {}, {"observation": (4,)}),
        ("LunarLander-v3", {}, {"observation": (8,)}),
    ],
)
def test_environments_of_other_packages_are_made_by_their_ids_alone(name, settings, seen):
    packages = {"ALE": "ale_py", "Mini": "minigrid", "popgym": "popgym", "Lunar": "Box2D"}
    pytest.importorskip(next(package for start, package in packages.items() if name.startswith(start)))
    env = make_env(EnvConfig(id=name, num_envs=2, **settings))
    steps = env.rollout(5)
    found = {key: tuple(steps[key].shape[2:]) for key in ("observation", "pixels", "codes") if key in steps}
    assert found == seen
    env.close()
