import hypothesis
import pytest
import torch

from recdqn import Config, train

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a small run; tests that change it work on a copy."""
    cfg = Config.preset("masked-cartpole").replace(
        train={"total_frames": 256, "warmup_frames": 192, "updates": 1, "eval_episodes": 2},
        policy={"hidden_size": 8, "features": 8, "head": 8},
    )
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(cfg, out=folder, progress=False)
    return folder
