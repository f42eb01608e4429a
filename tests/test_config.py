import dataclasses
import functools
import json

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdqn.config import PRESETS, Config, ConfigError, EnvConfig, PolicyConfig, Profile, TrainConfig


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name):
    cfg = Config.preset(name, seed=7)
    assert cfg.name == name and cfg.seed == 7
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'pong'.*masked-cartpole, pixel-cartpole"):
        Config.preset("pong")


def ranged_fields():
    for cls in (EnvConfig, PolicyConfig, TrainConfig):
        for field in dataclasses.fields(cls):
            if "low" in field.metadata:
                yield cls, field


@pytest.mark.parametrize(
    "cls, field", list(ranged_fields()), ids=lambda x: x.__name__ if isinstance(x, type) else x.name
)
@given(st.integers(min_value=1, max_value=10**9))
def test_numbers_below_their_range_are_named(cls, field, distance):
    low = field.metadata["low"] - distance
    value = (low,) if isinstance(field.default, tuple) else low
    with pytest.raises(ConfigError, match=f"{field.name}={low!r}: expected a number of at least"):
        cls(**{field.name: value})


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: EnvConfig(observation="sound"),
            "observation='sound': choose one of 'masked', 'pixels', 'whole'",
        ),
        (lambda: EnvConfig(id=3), "id=3: expected an environment's id, or a function that makes one"),
        (lambda: EnvConfig(workers=True, num_envs=1), "workers=True: expected num_envs of at least 2"),
        (lambda: PolicyConfig(cell="rnn"), "cell='rnn': choose one of 'lstm', 'gru'"),
        (lambda: PolicyConfig(eps_end=1.5), "eps_end=1.5: expected a number of at least 0 and at most 1"),
        (lambda: Config.preset("masked-cartpole", seed=-1), "seed=-1: expected a number of at least 0"),
        (lambda: TrainConfig(updates=True), "updates=True: expected a number"),
        (lambda: Config.from_dict({"colour": 1}), "not a configuration of this version.*colour"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def make_cartpole():
    return gym.make("CartPole-v1")


def test_an_environment_is_known_by_its_name():
    assert EnvConfig().id == "CartPole-v1"
    named = EnvConfig(id=make_cartpole)
    assert named.id == f"{__name__}:make_cartpole" and EnvConfig(id=named.id) == named
    assert EnvConfig(id=gym.spaces.Box.sample).id == "gymnasium.spaces.box:Box.sample"
    cfg = Config(env=named)
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize(
    "function", [lambda: make_cartpole(), functools.partial(make_cartpole)], ids=["lambda", "partial"]
)
def test_a_function_without_a_name_is_refused(function):
    with pytest.raises(
        ConfigError, match="^id=.* cannot be found by its name: put it at the top level of a module$"
    ):
        EnvConfig(id=function)


def test_configurations_from_before_these_fields():
    values = Config.preset("pixel-cartpole").to_dict()
    for name in ("id", "visible", "max_steps", "workers", "step_seconds"):
        del values["env"][name]
    assert Config.from_dict(values) == Config.preset("pixel-cartpole")


def test_replace_changes_one_field_of_one_part():
    cfg = Config.preset("masked-cartpole")
    other = cfg.replace(train={"updates": 3}, seed=4)
    assert (other.train.updates, other.seed) == (3, 4)
    assert other.replace(train={"updates": cfg.train.updates}, seed=0) == cfg


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_collections_fit_into_the_frames(total, batch):
    cfg = TrainConfig(total_frames=total, frames_per_batch=batch)
    assert cfg.collections * batch <= max(total, batch) < (cfg.collections + 1) * batch


def test_profiles(monkeypatch):
    monkeypatch.setenv("RECDQN_PROFILE", "smoke")
    cfg = Config.preset("masked-cartpole")
    cut = Profile.current().cut(cfg)
    assert cut.train.total_frames == Profile.current().masked_frames < cfg.train.total_frames
    # even the shortest profile makes updates
    assert cut.train.collections * cut.train.frames_per_batch >= cut.train.warmup_frames
    monkeypatch.setenv("RECDQN_PROFILE", "full")
    assert Profile.current().cut(cfg) == cfg
    monkeypatch.delenv("RECDQN_PROFILE")
    assert Profile.current().name == "book"
    monkeypatch.setenv("RECDQN_PROFILE", "huge")
    with pytest.raises(ConfigError, match="RECDQN_PROFILE='huge': choose one of smoke, book, full"):
        Profile.current()
