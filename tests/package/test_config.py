import dataclasses
import functools
import json
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from configurations import FIELDS, configurations, values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recdqn.book.profiles import Profile
from recdqn.config import Config, EnvConfig, TrainConfig
from recdqn.errors import ConfigError
from recdqn.fields import parts
from recdqn.presets import PRESETS

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name):
    cfg = Config.preset(name, seed=7)
    assert cfg.name == name and cfg.seed == 7
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'pong'.*masked-cartpole, pixel-cartpole"):
        Config.preset("pong")


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/seed-*/config.json")), ids=lambda f: f.parent.name)
def test_recorded_runs_used_the_presets(file):
    cfg = Config.from_dict(json.loads(file.read_text()))
    assert cfg == Config.preset(cfg.name, seed=cfg.seed)


NUMBERS = [
    name for name, schema in FIELDS.items() if schema.get("items", schema)["type"] in ("integer", "number")
]


@settings(deadline=None)
@given(configurations())
def test_a_configuration_survives_json(cfg):
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert cfg.replace() == cfg


def test_every_setting_has_a_range_or_choices():
    assert len(FIELDS) > 40
    for name, schema in FIELDS.items():
        item = schema.get("items", schema)
        assert (
            item["type"] == "boolean"
            or "enum" in item
            or item.keys() >= {"minLength", "maxLength"}
            or item.keys() >= {"minimum", "maximum"}
        ), name
        assert item is schema or schema.keys() >= {"minItems", "maxItems"}, name


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(NUMBERS), st.data())
def test_numbers_are_accepted_in_their_range_only(name, data):
    part, _, field = name.rpartition(".")
    cls, schema = parts(Config).get(part, Config), FIELDS[name]
    several, schema = "items" in schema, schema.get("items", schema)
    value = data.draw(values(schema))
    try:
        made = getattr(cls(**{field: value}), field)
        assert made == ((value,) if several else value)
        assert type(made[0] if several else made) is (int if schema["type"] == "integer" else float)
    except ConfigError as error:  # it is in its range, and does not fit another setting
        assert "policy.channels" in str(error) or "policy.eps_start" in str(error)
    outside = data.draw(st.integers(1, 10**9))
    index = r"\[0\]" if several else ""
    for value in (schema["minimum"] - outside, schema["maximum"] + outside):
        with pytest.raises(
            ConfigError, match=rf"^{re.escape(name)}{index}=-?[\d.e+]+: expected a .*number from "
        ):
            cls(**{field: value})


@pytest.mark.parametrize("array", [np.array, torch.tensor, list, tuple])
@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, float, int])
def test_numbers_and_arrays_of_other_libraries_are_converted(array, number):
    cfg = Config(
        seed=np.int64(3), env={"loc": array([number(1), number(0)]), "scale": number(2), "workers": np.True_}
    )
    assert cfg == Config(seed=3, env={"loc": (1.0, 0.0), "scale": (2.0,), "workers": True})
    values = (cfg.seed, *cfg.env.loc, *cfg.env.scale, cfg.env.workers)
    assert [type(value) for value in values] == [int, float, float, float, bool]


def test_an_observation_of_128_entries_is_scaled_one_by_one():
    env = EnvConfig(observation="whole", loc=np.zeros(128), scale=np.ones(128))
    assert len(env.loc) == len(env.scale) == 128


def test_a_configuration_is_a_value():
    cfg = Config.preset("pixel-cartpole", seed=3)
    assert pickle.loads(pickle.dumps(cfg)) == cfg and hash(cfg) == hash(cfg.replace())
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 4


def test_a_file_without_some_settings_has_their_defaults():
    cfg = Config.from_dict({"seed": 3, "env": {"loc": [1, 2]}})
    assert cfg == Config(seed=3, env=EnvConfig(loc=(1.0, 2.0)))
    assert Config.from_dict({}) == Config()


@settings(deadline=None)
@given(st.integers(9, 30), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3))
def test_a_picture_is_large_enough_where_its_convolutions_work(places, layers):
    """Against PyTorch, which refuses a picture smaller than a kernel."""
    kernels, strides = zip(*layers, strict=True)
    convolutions = nn.Sequential(*(nn.Conv2d(1, 1, kernel, stride) for kernel, stride in layers))
    try:
        fits = convolutions(torch.zeros(1, 1, places, places)).numel() > 0
    except RuntimeError:
        fits = False
    policy = {"channels": (1,) * len(layers), "kernels": kernels, "strides": strides}
    pictures = {"observation": "pixels", "image_size": 4 * places}
    if fits:
        Config(policy=policy, env=pictures)
    else:
        with pytest.raises(ConfigError, match=f"env.image_size={4 * places}: .*large enough"):
            Config(policy=policy, env=pictures)
    Config(policy=policy, env=pictures | {"observation": "masked"})


def make_cartpole():
    return gym.make("CartPole-v1")


def test_an_environment_is_known_by_its_name():
    assert EnvConfig().id == "CartPole-v1"
    named = EnvConfig(id=make_cartpole)
    assert named.id == f"{__name__}:make_cartpole" and EnvConfig(id=named.id) == named
    assert EnvConfig(id=gym.spaces.Box.sample).id == "gymnasium.spaces.box:Box.sample"
    cfg = Config(env=named)
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


CARTPOLES = {"loc": (0.0, 0.0), "scale": (2.0, 20.0), "reward_scale": 0.005}  # and the entries 0 and 2
UNTOUCHED = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0}


@pytest.mark.parametrize(
    "changed",
    [
        lambda **env: Config(env=env),
        lambda **env: Config(env=EnvConfig(**env)),
        lambda **env: Config.preset("masked-cartpole").replace(env=env),
        lambda **env: Config.preset("masked-cartpole").replace(env=EnvConfig(**env)),
    ],
)
def test_what_belongs_to_an_environment_does_not_go_to_another(changed):
    cfg = changed(id="Acrobot-v1", num_envs=4)
    assert {name: getattr(cfg.env, name) for name in UNTOUCHED} == UNTOUCHED and cfg.env.num_envs == 4
    assert cfg.policy.initial_value == 0.0 and cfg.train.solved_return == 1e9
    same = changed(id="CartPole-v1")
    assert {name: getattr(same.env, name) for name in CARTPOLES} == CARTPOLES
    assert same.policy.initial_value == 1.0 and same.train.solved_return == 475.0
    given = changed(id="Acrobot-v1", scale=(3.0,), observation="masked", visible=(1, 4)).env
    assert (given.scale, given.loc, given.visible) == ((3.0,), (0.0,), (1, 4))
    with pytest.raises(ConfigError, match=r"^env.visible=\(\): expected 1 to 4,096 entries"):
        changed(id="Acrobot-v1", observation="masked")


def test_a_copy_keeps_what_is_given_and_pictures_stay_pictures():
    cfg = Config.preset("pixel-cartpole").replace(
        env={"id": "Acrobot-v1"}, policy={"initial_value": -1.0}, train={"solved_return": -100}
    )
    assert (cfg.env.observation, cfg.env.reward_scale) == ("pixels", 1.0)
    assert (cfg.policy.initial_value, cfg.train.solved_return) == (-1.0, -100.0)
    again = cfg.replace(env={"id": "Acrobot-v1", "num_envs": 2}, seed=3)  # the same one
    assert (again.policy, again.train.solved_return) == (cfg.policy, -100.0)
    other = cfg.replace(env={"id": "MountainCar-v0"})
    assert (other.policy.initial_value, other.train.solved_return) == (0.0, 1e9)
    whole = cfg.replace(env=dataclasses.replace(cfg.env, id="MountainCar-v0"), policy=cfg.policy)
    assert (whole.policy.initial_value, whole.train.solved_return) == (-1.0, 1e9)


@pytest.mark.parametrize(
    "function", [lambda: make_cartpole(), functools.partial(make_cartpole)], ids=["lambda", "partial"]
)
def test_a_function_without_a_name_is_refused(function):
    with pytest.raises(
        ConfigError,
        match="^env.id=.*: expected a function that can be imported by its name: put it at the top level",
    ):
        EnvConfig(id=function)


def test_configurations_from_before_these_fields():
    values = Config.preset("pixel-cartpole").to_dict()
    for name in ("id", "visible", "max_steps", "workers", "step_seconds", "replay_seconds"):
        del values["env"][name]
    assert Config.from_dict(values) == Config.preset("pixel-cartpole")


def test_replace_changes_one_field_of_one_part():
    cfg = Config.preset("masked-cartpole")
    other = cfg.replace(train={"updates": 3}, seed=4)
    assert (other.train.updates, other.seed) == (3, 4)
    assert other.replace(train={"updates": cfg.train.updates}, seed=0) == cfg


@settings(deadline=None)
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
