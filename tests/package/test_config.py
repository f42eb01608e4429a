import dataclasses
import functools
import json
import math
import re

import gymnasium as gym
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recdqn.book.profiles import Profile
from recdqn.config import PRESETS, Config, EnvConfig, LossConfig, PolicyConfig, ReplayConfig, TrainConfig
from recdqn.errors import ConfigError


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name):
    cfg = Config.preset(name, seed=7)
    assert cfg.name == name and cfg.seed == 7
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'pong'.*masked-cartpole, pixel-cartpole"):
        Config.preset("pong")


PARTS = {"env": EnvConfig, "policy": PolicyConfig, "loss": LossConfig}
PARTS |= {"replay": ReplayConfig, "train": TrainConfig}
NUMBERS = [
    (name, field)
    for name, cls in PARTS.items()
    for field in dataclasses.fields(cls)
    if field.type.removeprefix("tuple[").startswith(("int", "float"))
]


@pytest.mark.parametrize("name, field", NUMBERS, ids=lambda x: x if isinstance(x, str) else x.name)
@given(st.integers(1, 10**9), st.booleans())
def test_numbers_out_of_their_range_are_named(name, field, distance, above):
    value = field.metadata["high"] + distance if above else field.metadata["low"] - distance
    value = (value,) if isinstance(field.default, tuple) else value
    dotted = re.escape(f"{name}.{field.name}=")
    with pytest.raises(ConfigError, match=rf"^{dotted}\(?-?[\d.]+,?\)?: expected a .*number from [^;]*$"):
        PARTS[name](**{field.name: value})


@pytest.mark.parametrize("name, cls", [("", Config), *PARTS.items()])
def test_every_number_has_a_range_that_holds_its_default(name, cls):
    for field in dataclasses.fields(cls):
        for value in field.default if isinstance(field.default, tuple) else (field.default,):
            if type(value) in (int, float):
                assert field.metadata["low"] <= value <= field.metadata["high"], field.name


CHOOSE = "there is no such setting; choose one of"


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: EnvConfig(observation="sound"),
            "env.observation='sound': choose one of 'masked', 'pixels', 'whole'",
        ),
        (
            lambda: EnvConfig(id=3),
            "env.id=3: expected printable text of 1 to 100 characters or an instance of Callable",
        ),
        (
            lambda: EnvConfig(workers=True, num_envs=1),
            "env.workers=True: expected False, or env.num_envs of at least 2",
        ),
        (lambda: PolicyConfig(cell="rnn"), "policy.cell='rnn': choose one of 'lstm', 'gru'"),
        (lambda: PolicyConfig(cell=["lstm"]), "policy.cell=['lstm']: choose one of 'lstm', 'gru'"),
        (lambda: PolicyConfig(eps_end=1.5), "policy.eps_end=1.5: expected a number from 0 to 1"),
        (lambda: PolicyConfig(eps_end=math.nan), "policy.eps_end=nan: expected a number from 0 to 1"),
        (lambda: PolicyConfig(bfloat16=1), "policy.bfloat16=1: expected True or False"),
        (
            lambda: EnvConfig(image_size=50),
            "env.image_size=50: expected a whole number from 36 to 400, a multiple of 4",
        ),
        (
            lambda: EnvConfig(loc=[0.0, 1.0]),
            "env.loc=[0.0, 1.0]: expected a tuple of 1 to 100 entries, "
            "each a number from -1,000,000 to 1,000,000",
        ),
        (lambda: TrainConfig(updates=True), "train.updates=True: expected a whole number from 1 to 100,000"),
        (lambda: TrainConfig(updates=3.0), "train.updates=3.0: expected a whole number from 1 to 100,000"),
        (
            lambda: TrainConfig(10**5_000),
            "train.total_frames=a very large number: expected a whole number from 1 to 1,000,000,000,000",
        ),
        (
            lambda: TrainConfig(solved_return=math.inf),
            "train.solved_return=inf: expected a number from 0 to 1,000,000,000",
        ),
        (
            lambda: Config.preset("masked-cartpole", seed=-1),
            "seed=-1: expected a whole number from 0 to 4,294,967,295",
        ),
        (lambda: Config(name=""), "name='': expected printable text of 1 to 100 characters"),
        (lambda: Config(device="a\nb"), r"device='a\nb': expected printable text of 1 to 100 characters"),
        (
            lambda: Config(env=PolicyConfig),
            "env=<class 'recdq...PolicyConfig'>: expected an instance of EnvConfig",
        ),
        (lambda: Config(loss=3), "loss=3: expected an instance of LossConfig"),
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
        (lambda: Config.from_dict({"env": 3}), "env=3: expected an instance of EnvConfig"),
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
    "env": {"num_envs": 0, "nmu_envs": 2},
    "policy": {"cell": "rnn", "channels": (1, "x"), "eps_start": 0.01},
    "replay": {"capacity": 64},
    "train": {"updates": None, "frames_per_batch": 65},
}
NAMED = [
    "seed=1.5",
    "env.nmu_envs=2",
    "env.num_envs=0",
    "policy.cell='rnn'",
    "policy.channels=(1, 'x')",
    "policy.eps_end=0.05",
    "train.updates=None",
    "replay.capacity=64",  # does not fit frames_per_batch, which is all right in itself
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
    said = re.findall(r"(?:^|; )([\w.]+=.*?): ", str(error.value))
    assert sorted(said) == sorted(NAMED)
    assert len(str(error.value).splitlines()) == 1


def test_a_part_alone_names_its_fields_as_the_whole_does():
    with pytest.raises(
        ConfigError, match="^policy.cell='rnn': .*; policy.channels=.*'x'.*: expected a tuple"
    ):
        PolicyConfig(**WRONG["policy"])


def test_a_file_without_some_settings_has_their_defaults():
    cfg = Config.from_dict({"seed": 3, "env": {"loc": [1, 2]}})
    assert cfg == Config(seed=3, env=EnvConfig(loc=(1.0, 2.0)))
    assert Config.from_dict({}) == Config()


def test_whole_numbers_become_floats_where_floats_are_expected():
    """TorchRL warns of a share of random actions that is no float."""
    cfg = Config(policy={"eps_start": 1}, env={"loc": (1, 2)})
    assert type(cfg.policy.eps_start) is type(cfg.env.loc[0]) is float


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
        ConfigError, match="^env.id=.* cannot be found by its name: put it at the top level of a module$"
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
