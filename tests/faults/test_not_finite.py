"""Numbers that are not finite end a run before they reach the weights, and leave what reproduces them."""

import math
import re

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from recdqn import load_checkpoint, make_env, make_policy, train
from recdqn.envs.replayable import Game
from recdqn.errors import NotFinite
from recdqn.loss import RecurrentDQNLoss, make_loss


def spoil_batches(monkeypatch, key, value, after):
    """Put a value into the batches that come after so many."""
    sample, samples = TensorDictReplayBuffer.sample, []

    def poisoned(self, *args, **kwargs):
        batch = sample(self, *args, **kwargs)
        samples.append(batch)
        if len(samples) > after:
            batch[key][-1] = value
        return batch

    monkeypatch.setattr(TensorDictReplayBuffer, "sample", poisoned)


def again(cfg, path):
    """Compute the loss of the batch that was kept, with the weights that were kept."""
    saved = torch.load(path, weights_only=True)
    env = make_env(cfg.env)
    loss_fn = make_loss(cfg.loss, make_policy(cfg.policy, env), env)
    SoftUpdate(loss_fn, tau=cfg.loss.tau)
    loss_fn.load_state_dict(saved["loss"])
    batch = TensorDict(saved["batch"], batch_size=len(saved["batch"]["action"])).unflatten_keys(".")
    loss = loss_fn(batch)["loss"]
    loss.backward()
    return loss_fn, batch, loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_in_a_batch(tiny, tmp_path, monkeypatch, value):
    """The third update of two for each 64 frames, after 256 frames of warm-up: so after 320 frames."""
    spoil_batches(monkeypatch, ("next", "reward"), value, after=2)
    out = tmp_path / "run"
    with pytest.raises(NotFinite) as error:
        train(tiny, out=out, progress=False)
    assert str(error.value) == (
        "('next', 'reward') in a batch is not finite, after 320 frames and 2 updates; "
        f"batch and weights are in {out / 'not-finite.pt'}"
    )
    loss_fn, batch, loss = again(tiny, out / "not-finite.pt")
    assert not loss.isfinite()
    assert not batch["next", "reward"][-1].isfinite() and batch["next", "reward"][:-1].isfinite().all()
    assert all(p.isfinite().all() for p in loss_fn.parameters())  # it never reached the weights


def test_a_gradient(tiny, tmp_path, monkeypatch):
    """A finite loss whose gradient is not: the square root of the loss, where it is zero."""
    forward = RecurrentDQNLoss.forward

    def steep(self, batch):
        result = forward(self, batch)
        return result.set("loss", result["loss"] * 0 + (result["loss"] * 0).sqrt())

    monkeypatch.setattr(RecurrentDQNLoss, "forward", steep)
    with pytest.raises(NotFinite, match="the gradient of .* is not finite, after 256 frames and 0 updates"):
        train(tiny, out=tmp_path / "run", progress=False)
    loss_fn, _, loss = again(tiny, tmp_path / "run" / "not-finite.pt")
    assert loss == 0 and not all(p.grad.isfinite().all() for p in loss_fn.parameters() if p.grad is not None)


def test_a_loss(tiny, monkeypatch):
    """Everything in the batch is finite, but what is made of it is not."""
    forward = RecurrentDQNLoss.forward
    monkeypatch.setattr(
        RecurrentDQNLoss,
        "forward",
        lambda self, batch: (r := forward(self, batch)).set("loss", r["loss"] / 0),
    )
    with pytest.raises(NotFinite, match="the loss is inf, after 256 frames and 0 updates$"):
        train(tiny, progress=False)


@pytest.mark.parametrize("what", ["observation", "first observation", "reward"])
def test_what_the_environment_returns(tiny, tmp_path, monkeypatch, what):
    """It is noticed in the collection in which it came, and the checkpoint before it stands."""
    step, reset, steps = Game.step, Game.reset, []

    def bad_step(self, action):
        observation, reward, *rest = step(self, action)
        steps.append(action)
        if len(steps) == 8 * 20 and what == "observation":
            observation = observation * math.nan
        if len(steps) == 8 * 20 and what == "reward":
            reward = math.inf
        return observation, reward, *rest

    def bad_reset(self, **kwargs):
        observation, info = reset(self, **kwargs)
        if what == "first observation" and steps:
            observation = observation * math.nan
        return observation, info

    monkeypatch.setattr(Game, "step", bad_step)
    monkeypatch.setattr(Game, "reset", bad_reset)
    out = tmp_path / "run"
    with pytest.raises(NotFinite) as error:
        train(tiny.replace(train={"save_seconds": 0.0}), out=out, progress=False)
    key = re.escape("('next', 'reward')" if what == "reward" else "observation'")
    pattern = rf".*{key}\)? from the environment is not finite, after (\d+) frames and 0 updates; batch .*"
    match = re.fullmatch(pattern, str(error.value))
    frames = int(match[1])
    assert frames == 128 or what == "first observation"
    assert sorted(out.glob("checkpoints/*"))[-1].name == f"checkpoint-{frames:012d}.torchrl"


def test_clipped_gradients_are_logged(tiny, tmp_path):
    """The share of gradients that were longer than what is allowed, beside their mean length."""
    train(tiny.replace(train={"max_grad_norm": 1e-6}), out=tmp_path / "short", progress=False)
    train(tiny.replace(train={"max_grad_norm": 1e6}), out=tmp_path / "long", progress=False)
    for name, share in (("short", 1.0), ("long", 0.0)):
        assert [row["clipped"] for row in load_checkpoint(tmp_path / name).metrics] == [share, share]
