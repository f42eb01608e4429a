"""Planted bugs of the environment."""

import gymnasium as gym
import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from pipelines import network, primed, vector_env
from torchrl.envs import (
    CatFrames,
    Compose,
    GrayScale,
    GymEnv,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    Resize,
    ToTensorImage,
    TransformedEnv,
    UnaryTransform,
)

from recdqn.config import EnvConfig
from recdqn.envs import hide_velocities, make_env, prepare_display


def no_tracker():
    policy = network()
    return {"env": vector_env(policy[1].make_tensordict_primer(), tracker=False), "policy": policy}


def marked(fn):
    policy = network()
    mark = UnaryTransform(in_keys=["is_init"], out_keys=["is_init"], fn=fn)
    return {"env": primed(policy, mark), "policy": policy}


def no_statistics():
    policy = network()
    return {"env": primed(policy, ObservationNorm(in_keys=["observation"])), "policy": policy}


def normalised_images(loc, scale):
    prepare_display()
    norm = ObservationNorm(loc, scale, in_keys=["pixels"], standard_normal=True)
    base = GymEnv("CartPole-v1", from_pixels=True)
    return {
        "env": TransformedEnv(base, Compose(ToTensorImage(), GrayScale(), Resize(36), InitTracker(), norm))
    }


def whole_vector_left_in():
    hide = UnaryTransform(in_keys=["observation"], out_keys=["masked"], fn=hide_velocities)
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(hide, InitTracker()))
    env.set_seed(0)
    return {"env": env}


def two_frames_show_the_velocity():
    return {"env": vector_env(CatFrames(N=2, dim=-1, in_keys=["observation"]))}


def wrapped(wrapper):
    return {"env": TransformedEnv(GymWrapper(wrapper(gym.make("CartPole-v1"))), InitTracker())}


def normalised():
    return NormalizeObservation(gym.make("CartPole-v1"))


def made_by_the_package():
    return {"env": make_env(EnvConfig(id=normalised, num_envs=2))}


PER_COLUMN = torch.linspace(0, 1, 36).reshape(1, 36), torch.ones(1, 36)
PER_ROW = torch.zeros(1, 36, 1), torch.linspace(1, 2, 36).reshape(1, 36, 1)


def crash(observation):
    """Fail where the pole leans to the right, which it does at some step."""
    if (observation[..., 1] > 0.05).any():
        raise ValueError("no such place")
    return observation


PLANTED = [  # code, part of the message, function that returns the parts
    (
        "does-not-run",
        "no such place",
        lambda: {"env": vector_env(UnaryTransform(["observation"], ["observation"], fn=crash))},
    ),
    ("no-init-tracker", "'is_init'", no_tracker),
    ("init-never-true", "'is_init'", lambda: marked(torch.zeros_like)),
    ("init-false-start", "'is_init'", lambda: marked(torch.ones_like)),
    ("norm-uninitialised", "ObservationNorm of 'observation'", no_statistics),
    ("norm-per-column", "ObservationNorm", lambda: normalised_images(*PER_COLUMN)),
    ("norm-per-column", "ObservationNorm", lambda: normalised_images(*PER_ROW)),
    ("norm-learns", "NormalizeObservation.obs_rms changes", lambda: wrapped(NormalizeObservation)),
    ("norm-learns", "NormalizeReward.return_rms changes", lambda: wrapped(NormalizeReward)),
    ("norm-learns", "NormalizeObservation.obs_rms changes", made_by_the_package),
    ("masked-leak", "'observation' reveals it", whole_vector_left_in),
    ("masked-leak", "the rest of 'observation' reveals it", two_frames_show_the_velocity),
]
