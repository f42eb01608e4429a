"""A value that is not finite ends a run before it reaches the weights; the batch is saved to reproduce it."""

import json
import math
from types import SimpleNamespace

import faulty
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.objectives import SoftUpdate

from recdqn import evaluate, load_checkpoint, make_env, make_policy, train
from recdqn.errors import NotFinite
from recdqn.loss import RecurrentDQNLoss, make_loss
from recdqn.replay import SliceReplayBuffer
from recdqn.run.folder import write_config


def spoil_batches(monkeypatch, key, value, after):
    """Write ``value`` into each batch after the first ``after`` batches."""
    sample, samples = SliceReplayBuffer.sample, []

    def poisoned(self, *args, **kwargs):
        batch = sample(self, *args, **kwargs)
        samples.append(batch)
        if len(samples) > after:
            batch[key][-1] = value
        return batch

    monkeypatch.setattr(SliceReplayBuffer, "sample", poisoned)


def reproduce(cfg, path):
    """Compute the loss of the saved batch with the saved weights."""
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
    """In the third update: two are made every 64 frames, from frame 256 on, so it comes after 320 frames."""
    spoil_batches(monkeypatch, ("next", "reward"), value, after=2)
    out = tmp_path / "run"
    with pytest.raises(NotFinite) as error:
        train(tiny, out=out, progress=False)
    assert str(error.value) == (
        "('next', 'reward') in a batch is not finite, after 320 frames and 2 updates; "
        f"batch and weights are in {out / 'not-finite.pt'}"
    )
    loss_fn, batch, loss = reproduce(tiny, out / "not-finite.pt")
    assert not loss.isfinite()
    assert not batch["next", "reward"][-1].isfinite() and batch["next", "reward"][:-1].isfinite().all()
    assert all(p.isfinite().all() for p in loss_fn.parameters())  # it did not reach the weights


def test_a_gradient(tiny, tmp_path, monkeypatch):
    """A finite loss with a gradient that is not: the square root at zero."""
    forward = RecurrentDQNLoss.forward

    def steep(self, batch):
        result = forward(self, batch)
        return result.set("loss", result["loss"] * 0 + (result["loss"] * 0).sqrt())

    monkeypatch.setattr(RecurrentDQNLoss, "forward", steep)
    with pytest.raises(NotFinite, match="the gradient of .* is not finite, after 256 frames and 0 updates"):
        train(tiny, out=tmp_path / "run", progress=False)
    loss_fn, _, loss = reproduce(tiny, tmp_path / "run" / "not-finite.pt")
    assert loss == 0 and not all(p.grad.isfinite().all() for p in loss_fn.parameters() if p.grad is not None)


def test_a_loss(tiny, monkeypatch):
    """The batch is finite, and the loss computed from it is not."""
    forward = RecurrentDQNLoss.forward
    monkeypatch.setattr(
        RecurrentDQNLoss,
        "forward",
        lambda self, batch: (r := forward(self, batch)).set("loss", r["loss"] / 0),
    )
    with pytest.raises(NotFinite, match="the loss is inf, after 256 frames and 0 updates$"):
        train(tiny, progress=False)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (faulty.NanObservation, "('next', 'observation')"),
        (faulty.NanFirstObservation, "'observation'"),
        (faulty.InfiniteReward, "('next', 'reward')"),
    ],
)
def test_a_value_from_the_environment(tiny, tmp_path, kind, key):
    """It is found in the collection that brought it, and the checkpoint before that is intact."""
    env = {"id": kind, "observation": "whole", "loc": (0.0,), "scale": (1.0,)}
    cfg = tiny.replace(env=env, train={"save_seconds": 0.0})
    out = tmp_path / "run"
    with pytest.raises(NotFinite) as error:
        train(cfg, out=out, progress=False)
    # A collection has 8 steps of 8 environments; the value comes at step 24, 21 and 20.
    line = f"{key} from the environment is not finite, after 128 frames and 0 updates; batch and weights are"
    assert str(error.value).startswith(line)
    assert sorted(out.glob("checkpoints/*"))[-1].name == f"checkpoint-{128:012d}.torchrl"


def test_clipped_gradients_are_logged(tiny, tmp_path):
    """The share of updates whose gradient norm exceeds ``max_grad_norm``."""
    train(tiny.replace(train={"max_grad_norm": 1e-6}), out=tmp_path / "short", progress=False)
    train(tiny.replace(train={"max_grad_norm": 1e6}), out=tmp_path / "long", progress=False)
    for name, share in (("short", 1.0), ("long", 0.0)):
        assert [row["clipped"] for row in load_checkpoint(tmp_path / name).metrics] == [share, share]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (faulty.NanObservation, "'observation'"),
        (faulty.InfiniteReward, "'reward'"),
    ],
)
def test_an_evaluation(tiny, kind, name, foreign):
    cfg = tiny.replace(env={"id": kind}).env
    policy = make_policy(tiny.policy, make_env(cfg))
    if foreign:  # a policy that runs in TorchRL's environment
        policy = TensorDictSequential(*policy[:-1], TensorDictModule(nn.Identity(), ["action"], ["action"]))
        name = "'value'" if name == "'observation'" else name
    with pytest.raises(NotFinite, match=f"^{name} in an evaluation is not finite: check what the env"):
        evaluate(policy, cfg, episodes=2)


def test_a_value_in_an_evaluation_only(tiny, tmp_path):
    """Training never sees the infinite reward; the run folder holds JSON."""
    cfg = tiny.replace(env={"id": faulty.LateReward}, train={"save_seconds": 0.0})
    with pytest.raises(NotFinite, match="^'reward' in an evaluation is not finite: .* and 6 updates"):
        train(cfg, out=tmp_path, progress=False)
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_no_number_that_is_not_finite_reaches_a_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_config(tmp_path, SimpleNamespace(to_dict=lambda: {"loss": float("nan")}))
    assert list(tmp_path.iterdir()) == []
