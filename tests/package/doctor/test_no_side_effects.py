"""diagnose leaves the parts and the random number generators as they were."""

import random

import numpy as np
import pytest
import torch
from pipelines import pipeline, played, slices, small
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, RandomSampler, TensorDictReplayBuffer
from torchrl.envs.utils import exploration_type
from torchrl.modules import recurrent_mode

from recdqn import diagnose, make_env


def everything(parts: dict) -> list:
    """Return everything that ``diagnose`` could change."""
    env, buffer, loss = parts["env"], parts["buffer"], parts["loss"]
    envs = env.base_env.gym.unwrapped.envs
    return [
        {k: v.clone() for k, v in parts["policy"].state_dict().items()},
        {k: v.clone() for k, v in loss.state_dict().items()},
        buffer[:].clone(),
        (buffer.write_count, len(buffer), buffer.writer.state_dict(), buffer.sampler.state_dict()),
        env.transform.state_dict(),
        [(one.unwrapped.state, one.unwrapped.np_random.bit_generator.state) for one in envs],
        parts["batch"].clone(),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(),
        (recurrent_mode(), exploration_type(), torch.is_grad_enabled()),
        [p.grad for p in loss.parameters()],
    ]


def same(a, b) -> bool:
    if isinstance(a, TensorDict | Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_nothing_is_changed():
    parts = pipeline()
    parts["batch"] = parts["buffer"].sample()
    before = everything(parts)
    report = diagnose(**parts)
    assert len(report.checked) > 50 and not any("failed" in why for why in report.skipped.values())
    for old, new in zip(before, everything(parts), strict=True):
        assert same(old, new)
    following = parts["env"].rollout(5, parts["policy"])  # and all of it still runs
    assert parts["loss"](parts["buffer"].sample())["loss"].isfinite() and len(following) == 4


def test_an_environment_that_renders_still_renders():
    """A pygame surface cannot be copied; the copy creates its own."""
    env = make_env(small("pixel-cartpole", num_envs=1).env)
    env.set_seed(0)
    frame = env.reset()["pixels"]
    surface = env.base_env.gym.unwrapped.screen
    assert "norm-per-column" in diagnose(env=env).checked
    assert env.base_env.gym.unwrapped.screen is surface
    assert env.rollout(3)["pixels"].shape == (3, *frame.shape)


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("sampler", [slices, RandomSampler])
def test_the_next_batch_is_the_same_as_without_diagnose(sampler, own_generator):
    batches = []
    for diagnosed in (False, True):
        generator = torch.Generator().manual_seed(5) if own_generator else None
        storage = LazyTensorStorage(2_000)
        buffer = TensorDictReplayBuffer(
            storage=storage, sampler=sampler(), batch_size=64, generator=generator
        )
        buffer.extend(played()[1])
        if diagnosed:
            diagnose(buffer=buffer)
        torch.manual_seed(5)
        batches.append(buffer.sample()["index"])
    assert torch.equal(*batches)
