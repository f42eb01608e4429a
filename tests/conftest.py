import hypothesis
import pytest
import torch

from recdqn import Config

# A machine that does other work is slow, and no test fails because of that.
hypothesis.settings.register_profile("recdqn", deadline=None)
hypothesis.settings.load_profile("recdqn")


@pytest.fixture(autouse=True)
def one_thread():
    """One thread repeats exactly, and the networks here are small."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> Config:
    """Masked CartPole, cut down to a few updates."""
    return Config.preset("masked-cartpole").replace(
        env={"num_envs": 8},
        train={"total_frames": 512, "warmup_frames": 256, "updates": 2, "eval_every": 3, "eval_episodes": 3},
        policy={"hidden_size": 8, "features": 8, "head": 8},
        replay={"slices": 4, "slice_len": 10},
    )
