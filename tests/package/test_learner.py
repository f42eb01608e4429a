"""One gradient step: against Adam, clipping, target network and running average written by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.objectives import SoftUpdate

from recdqn import (
    Learner,
    add_primers,
    load_checkpoint,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
    resume,
    train,
)
from recdqn.errors import NotFinite
from recdqn.loss import make_loss


@pytest.fixture
def learner_and_batch(tiny, tmp_path):
    cfg = tiny.replace(train={"max_grad_norm": 0.1, "average": 0.75}, loss={"tau": 0.1})
    env = make_env(cfg.env)
    env.set_seed(0)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg, tmp_path)
    for _ in make_collector(cfg, env, learner.policy, buffer):
        pass
    return learner, buffer.sample()


def weights(params):
    return {str(k): v.detach().clone() for k, v in params.items(include_nested=True, leaves_only=True)}


def test_an_update_is_an_adam_step_on_clipped_gradients(learner_and_batch):
    learner, batch = learner_and_batch
    online, target = learner.loss.value_network_params, learner.loss.target_value_network_params
    # The target starts as a copy; another start shows that it moves, and by how much.
    for value in target.values(include_nested=True, leaves_only=True):
        value.data.add_(1.0)
    before, target_before = weights(online), weights(target)

    loss = learner.loss(batch.clone())["loss"]
    names = {id(p): str(k) for k, p in online.items(include_nested=True, leaves_only=True)}
    parameters = list(learner.loss.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    grads = {names[id(p)]: g for p, g in zip(parameters, gradients, strict=True) if g is not None}
    norm = math.sqrt(sum(g.double().square().sum() for g in grads.values()))
    assert norm > 0.1  # it is clipped
    result = learner.update(batch)
    assert result == pytest.approx((loss.item(), norm), rel=1e-5)

    after, target_after = weights(online), weights(target)
    rate = learner.cfg.train.learning_rate
    for name, g in grads.items():
        clipped = g * 0.1 / norm
        # Adam's first step with its default betas: the corrected moments are the gradient and its square.
        step = rate * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(after[name], before[name] - step, atol=2e-6, rtol=0)
        moved = 0.9 * target_before[name] + 0.1 * after[name]
        torch.testing.assert_close(target_after[name], moved, atol=1e-6, rtol=0)


def test_the_target_network_can_be_copied_every_few_updates(learner_and_batch):
    """Every third update, also after the learner was saved and loaded between two of them."""
    learner, batch = learner_and_batch
    learner.cfg = learner.cfg.replace(loss={"target_every": 3})
    online, target = learner.loss.value_network_params, learner.loss.target_value_network_params
    for update in range(1, 10):
        before = weights(target)
        learner.update(batch)
        expected = weights(online) if update % 3 == 0 else before
        torch.testing.assert_close(weights(target), expected, atol=0, rtol=0)
        assert any(not torch.equal(value, before[name]) for name, value in weights(online).items())
        if update == 4:
            saved = {name: copy.deepcopy(part.state_dict()) for name, part in learner.parts().items()}
            learner = Learner(learner.cfg, make_env(learner.cfg.env))
            online, target = learner.loss.value_network_params, learner.loss.target_value_network_params
            for name, part in learner.parts().items():
                part.load_state_dict(saved[name])


def test_slices_can_start_from_zeros(learner_and_batch):
    """As if the buffer had stored zeros; from the stored states, the values are others."""
    learner, batch = learner_and_batch
    values = []
    for stored in (True, False):
        loss = make_loss(
            replace(learner.cfg.loss, stored_state=stored), learner.policy, make_env(learner.cfg.env)
        )
        SoftUpdate(loss, tau=0.1)  # the loss asks for one
        zeros = batch.clone()
        for key in ("recurrent_state_h", "recurrent_state_c"):
            zeros[key].zero_()
        values.append([loss(data)["loss"].item() for data in (batch.clone(), zeros)])
    assert values[0][0] != values[0][1] == values[1][0] == values[1][1]


def test_the_average_is_exponential(learner_and_batch):
    """PyTorch's running average starts as a copy at its first update."""
    learner, batch = learner_and_batch
    learner.update(batch)
    first = [p.detach().clone() for p in learner.policy.parameters()]
    learner.update(batch)
    for average, old, new in zip(
        learner.average.module.parameters(), first, learner.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * new)


def test_the_average_takes_over_epsilon(learner_and_batch):
    learner, batch = learner_and_batch
    learner.policy[-1].step(64)
    learner.update(batch)
    assert learner.average.module[-1].eps == learner.policy[-1].eps < learner.policy[-1].eps_init


def test_one_vector_gives_the_same_bits_as_many_tensors(learner_and_batch):
    """Against the usual parts of PyTorch and TorchRL; nothing is clipped."""
    learner, batch = learner_and_batch
    learner.cfg = learner.cfg.replace(train={"max_grad_norm": 1e6})
    env = make_env(learner.cfg.env)
    policy = make_policy(learner.cfg.policy, env)
    policy.load_state_dict(learner.policy.state_dict())
    loss = make_loss(learner.cfg.loss, policy, env)
    target = SoftUpdate(loss, tau=learner.cfg.loss.tau)
    average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(learner.cfg.train.average))
    optimiser = torch.optim.Adam(loss.parameters(), lr=learner.cfg.train.learning_rate, fused=True)
    for _ in range(5):
        value = loss(batch.clone())["loss"]
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(loss.parameters(), 1e6)
        optimiser.step()
        optimiser.zero_grad()
        target.step()
        average.update_parameters(policy)
        assert learner.update(batch.clone()) == (value.item(), pytest.approx(norm.item(), rel=1e-6))
    for ours, usual in (
        (learner.policy.state_dict(), policy.state_dict()),
        (learner.average.state_dict(), average.state_dict()),
        (weights(learner.loss.target_value_network_params), weights(loss.target_value_network_params)),
    ):
        torch.testing.assert_close(ours, usual, rtol=0, atol=0)


def test_a_value_that_is_not_finite_does_not_reach_the_weights(learner_and_batch):
    learner, batch = learner_and_batch
    batch["next", "reward"][5] = math.nan
    before = [p.detach().clone() for p in learner.loss.parameters()]
    with pytest.raises(NotFinite, match=r"\('next', 'reward'\) in a batch is not finite") as error:
        learner.update(batch)
    assert error.value.batch is batch
    assert all(map(torch.equal, before, learner.loss.parameters()))
    batch["next", "reward"][5] = 0.0  # and the next batch can be learned from
    assert all(map(math.isfinite, learner.update(batch)))


def test_the_learning_rate_falls_linearly(learner_and_batch):
    learner, _ = learner_and_batch
    cfg, rates = learner.cfg.train, []
    for share in (0.0, 0.25, 1.0, 2.0):
        learner.anneal(int(share * cfg.total_frames))
        rates.append(learner.optimiser.param_groups[0]["lr"])
    first, last = cfg.learning_rate, cfg.final_learning_rate
    assert rates == pytest.approx([first, 0.75 * first + 0.25 * last, last, last])


@pytest.mark.parametrize("num_envs", [1, 4])
def test_each_environment_explores_by_its_step_of_the_ladder(tiny, num_envs):
    """A random action is one of two, so half of them differ from the greedy one; the average is as ever."""
    cfg = tiny.replace(
        env={"num_envs": num_envs}, scale={"ladder": True}, train={"frames_per_batch": 2_000 * num_envs}
    )
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    steps = next(iter(make_collector(cfg, env, learner.policy, None)))
    other = (steps["action_value"].argmax(-1) != steps["action"].argmax(-1)).float()
    expected = [0.4 ** (1 + 7 * i / max(num_envs - 1, 1)) for i in range(num_envs)]
    assert (2 * other.reshape(num_envs, -1).mean(-1)).tolist() == pytest.approx(expected, abs=0.05)
    assert learner.average.module[-1].eps.shape == ()


def test_a_run_with_a_ladder_resumes_exactly(tiny, tmp_path):
    cfg = tiny.replace(scale={"ladder": True}, train={"learning_rate": 1e-3, "final_learning_rate": 1e-3})
    whole = train(cfg, progress=False)
    train(cfg.replace(train={"total_frames": 384}), out=tmp_path / "run", progress=False)
    again = resume(tmp_path / "run", frames=512, progress=False)
    for ours, resumed in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(ours, resumed)
    load_checkpoint(tmp_path / "run")
