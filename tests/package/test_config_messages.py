"""What is said about settings that cannot be used: all of it at once, in one line."""

import json
import math
import re

import pytest

from recdqn.config import Config, EnvConfig, LossConfig, PolicyConfig, TrainConfig
from recdqn.errors import ConfigError
from recdqn.presets import PRESETS

PIXELS = Config.preset("pixel-cartpole")
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
        (lambda: PolicyConfig(cell=["lstm"]), "policy.cell=['lstm']: expected one of 'lstm', 'gru', 'none'"),
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
            f"loss.x=1: {CHOOSE} gamma, n_steps, double_dqn, burn_in, value_rescale, stored_state, tau, "
            "target_every",
        ),
        (
            lambda: Config.from_dict({"colour": "a"}),
            f"colour='a': {CHOOSE} name, seed, device, threads, env, policy, loss, replay, train, scale",
        ),
        (
            lambda: Config.from_dict({"env": {"a\nb": 1, "num_env": 2}}),
            "env.a b=1: there is no such setting; "
            "choose one of id, observation, num_envs, image_size, visible, stack, loc, scale, previous, "
            "entries, arrays, mask, reward_scale, max_steps, workers, step_seconds, replay_seconds; "
            "env.num_env=2: there is no such setting; did you mean env.num_envs?",
        ),
        (lambda: Config.from_dict([]), "[] is no configuration: expected a dictionary of names"),
        (lambda: Config.from_dict({1: 2}), "{1: 2} is no configuration: expected a dictionary of names"),
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
            lambda: Config(scale={"actors": 5}).check_training(),
            "env.num_envs=32: expected a multiple of scale.actors=5",
        ),
        (
            lambda: Config(env={"workers": True}, scale={"actors": 32}).check_training(),
            "env.workers=True: expected False, or at least two of env.num_envs=32 "
            "for each of scale.actors=32",
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
            lambda: PIXELS.replace(env={"image_size": 36}, replay={"shift": 36}).check_training(),
            "replay.shift=36: expected less than env.image_size=36",
        ),
        (lambda: Config.preset(5), f"unknown preset 5: choose one of {', '.join(PRESETS)}"),
        (
            lambda: Config(loss={"burn_in": 20}).check_training(),
            "loss.burn_in=20: expected less than replay.slice_len=20, or no step would be left to learn from",
        ),
        (
            lambda: Config(replay={"period": 21}).check_training(),
            "replay.period=21: expected at most replay.slice_len=20, or the steps between slices would never "
            "be drawn",
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
