import dataclasses
import functools
import json
import math
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
from recdqn.config import Config, EnvConfig, LossConfig, PolicyConfig, TrainConfig
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


@settings(max_examples=500)
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


CHOOSE = "there is no such setting; choose one of"


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: EnvConfig(observation="sound"),
            "env.observation='sound': expected one of 'masked', 'pixels', 'whole'",
        ),
        (lambda: EnvConfig(id=3), "env.id=3: expected printable text of 1 to 100 characters"),
        (
            lambda: EnvConfig(workers=True, num_envs=1),
            "env.workers=True: expected False, or env.num_envs of at least 2",
        ),
        (lambda: PolicyConfig(cell=["lstm"]), "policy.cell=['lstm']: expected one of 'lstm', 'gru'"),
        (lambda: PolicyConfig(eps_end=math.nan), "policy.eps_end=nan: expected a number from 0 to 1"),
        (lambda: PolicyConfig(bfloat16=1), "policy.bfloat16=1: expected True or False"),
        (
            lambda: EnvConfig(image_size=50),
            "env.image_size=50: expected a whole number from 36 to 400, a multiple of 4",
        ),
        (
            lambda: EnvConfig(loc="01"),
            "env.loc='01': expected 1 to 4,096 entries, each a number from -1,000,000 to 1,000,000",
        ),
        (
            lambda: PolicyConfig(channels=[8, None, "x"]),
            "policy.channels[1]=None: expected a whole number from 1 to 512",
        ),
        (lambda: TrainConfig(updates=True), "train.updates=True: expected a whole number from 1 to 100,000"),
        (lambda: TrainConfig(updates=3.0), "train.updates=3.0: expected a whole number from 1 to 100,000"),
        (
            lambda: TrainConfig(total_frames=10**5_000),
            "train.total_frames=a very large number: expected a whole number from 1 to 1,000,000,000,000",
        ),
        (
            lambda: TrainConfig(solved_return=math.inf),
            "train.solved_return=inf: expected a number from -1,000,000,000 to 1,000,000,000",
        ),
        (
            lambda: Config.preset("masked-cartpole", seed=-1),
            "seed=-1: expected a whole number from 0 to 4,294,967,295",
        ),
        (lambda: Config(name=""), "name='': expected printable text of 1 to 100 characters"),
        (lambda: Config(device="a\nb"), r"device='a\nb': expected printable text of 1 to 100 characters"),
        (
            lambda: Config(env=PolicyConfig),
            "env=<class 'recdq...PolicyConfig'>: expected a dictionary or an instance of EnvConfig",
        ),
        (lambda: Config(loss=3), "loss=3: expected a dictionary or an instance of LossConfig"),
        (lambda: LossConfig(gama=0.9), "loss.gama=0.9: there is no such setting; did you mean loss.gamma?"),
        (
            lambda: LossConfig(x=1),
            f"loss.x=1: {CHOOSE} gamma, n_steps, double_dqn, burn_in, value_rescale, tau",
        ),
        (
            lambda: Config.from_dict({"colour": "a"}),
            f"colour='a': {CHOOSE} name, seed, device, threads, env, policy, loss, replay, train",
        ),
        (
            lambda: Config.from_dict({"env": {"a\nb": 1, "num_env": 2}}),
            "env.a b=1: there is no such setting; "
            "choose one of id, observation, num_envs, image_size, visible, loc, scale, reward_scale, "
            "max_steps, workers, step_seconds; "
            "env.num_env=2: there is no such setting; did you mean env.num_envs?",
        ),
        (lambda: Config.from_dict([]), "[] is no configuration: expected a dictionary"),
        # what fits on its own, and not together
        (
            lambda: PolicyConfig(channels=(8, 8)),
            "policy.kernels=(2, 4, 3): expected one entry for each of policy.channels=(8, 8); "
            "policy.strides=(1, 2, 1): expected one entry for each of policy.channels=(8, 8)",
        ),
        (lambda: PolicyConfig(eps_start=0.0), "policy.eps_end=0.05: expected at most policy.eps_start=0.0"),
        (
            lambda: Config(env={"observation": "pixels"}, policy={"kernels": (16, 7, 1)}),
            "env.image_size=84: expected a picture that is large enough for policy.kernels=(16, 7, 1) "
            "and policy.strides=(1, 2, 1)",
        ),
        # what only training cannot use
        (
            lambda: Config(train={"total_frames": 1_087, "warmup_frames": 1_088}).check_training(),
            "train.total_frames=1087: expected enough for train.warmup_frames=1088 "
            "in whole collections of train.frames_per_batch=64, or no update would be made",
        ),
        (
            lambda: Config(env={"num_envs": 7}).check_training(),
            "train.frames_per_batch=64: expected a multiple of env.num_envs=7",
        ),
        (
            lambda: Config(env={"num_envs": 64}).check_training(),
            "train.frames_per_batch=64: expected at least two steps of each of env.num_envs=64",
        ),
        (
            lambda: Config(replay={"capacity": 63}).check_training(),
            "replay.capacity=63: expected room for a collection of train.frames_per_batch=64",
        ),
        (
            lambda: Config(replay={"slice_len": 200, "slices": 501}).check_training(),
            "replay.slice_len=200: expected at most 100,000 steps in a batch of replay.slices=501",
        ),
        (
            lambda: Config(loss={"burn_in": 20}).check_training(),
            "loss.burn_in=20: expected less than replay.slice_len=20, or no step would be left to learn from",
        ),
        (
            lambda: Config(env={"scale": (1.0, 1.0, 1.0)}).check_training(),
            "env.scale=(1.0, 1.0, 1.0): expected 1 entry, or one for each of env.visible=(0, 2)",
        ),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message


WRONG = {
    "seed": 1.5,
    "env": {"num_envs": 0, "nmu_envs": 2, "loc": [1] * 5_000},
    "policy": {"cell": "rnn", "channels": (1, "x", None), "eps_start": 0.01},
    "loss": None,
    "replay": {"capacity": 64},
    "train": {"updates": None, "frames_per_batch": 65},
}
NAMED = [
    "seed=1.5",
    "env.num_envs=0",
    "env.loc=(1, 1, 1, 1, 1, 1, ...)",
    "env.nmu_envs=2",
    "policy.cell='rnn'",
    "policy.channels[1]='x'",
    "loss=None",
    "train.updates=None",
    "policy.eps_end=0.05",  # more than eps_start
    "replay.capacity=64",  # less than frames_per_batch, which is all right in itself
]


@pytest.mark.parametrize(
    "build",
    [
        lambda values: Config(**values),
        lambda values: Config.from_dict(json.loads(json.dumps(values))),
        lambda values: Config.preset("pixel-cartpole").replace(**values),
    ],
    ids=["class", "from_dict", "replace"],
)
def test_everything_that_is_wrong_is_said_in_one_line(build):
    with pytest.raises(ConfigError) as error:
        build(WRONG)
    said = re.findall(r"(?:^|; )([\w.\[\]]+=.*?): ", str(error.value))
    assert said == NAMED
    assert len(str(error.value).splitlines()) == 1


def test_a_part_alone_names_its_fields_as_the_whole_does():
    with pytest.raises(
        ConfigError, match=r"^policy.cell='rnn': .*; policy.channels\[1\]='x': expected a whole"
    ):
        PolicyConfig(**WRONG["policy"])


def test_everything_that_does_not_fit_together_is_said_in_one_line():
    cfg = Config(env={"num_envs": 7, "scale": 1.0, "loc": (1, 2, 3)}, replay={"capacity": 9})
    with pytest.raises(
        ConfigError, match="^train.frames_per_batch=64: .*; replay.capacity=9: .*; env.loc=[^;]*$"
    ):
        cfg.check_training()


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
