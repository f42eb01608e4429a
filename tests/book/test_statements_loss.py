"""Statements of chapter 4 and the field guide about other libraries that no cell shows."""

import copy

import pytest
import torch
from cartpole_parts import cartpole, lstm, policy_of
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSliceSampler,
    RandomSampler,
    SliceSampler,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.envs import (
    InitTracker,
    ObservationNorm,
    TensorDictPrimer,
)
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import (
    GRUModule,
    LSTMModule,
    recurrent_mode,
    set_recurrent_mode,
)
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl.objectives.common import LossModule

# --- chapter 4 ------------------------------------------------------------------------------------------


class ModeLoss(LossModule):
    def forward(self, tensordict):
        return recurrent_mode(), exploration_type()


def test_any_loss_runs_in_recurrent_mode_and_without_exploration():
    loss = ModeLoss()
    with set_recurrent_mode(False):
        assert loss(TensorDict()) == (True, ExplorationType.DETERMINISTIC)
        assert recurrent_mode() is False


@pytest.mark.parametrize("python_based", [False, True])
def test_vmap_needs_the_implementation_in_python(python_based):
    net = lstm(python_based=python_based).lstm
    weights = {key: value.expand(5, *value.shape) for key, value in net.named_parameters()}

    def run(weights):
        return torch.func.functional_call(net, weights, (torch.zeros(2, 3, 4),))[0]

    if python_based:
        assert torch.vmap(run)(weights).shape == (5, 2, 3, 3)
    else:
        with pytest.raises(RuntimeError, match="lstm"):
            torch.vmap(run)(weights)


def dqn_loss(**options):
    env = cartpole(InitTracker(), lstm().make_tensordict_primer())
    policy = policy_of(lstm())
    with torch.no_grad():
        return DQNLoss(policy[:-1], action_space=env.action_spec, **options), env.rollout(10, policy)


def test_the_discount_is_099_unless_it_is_set():
    loss, batch = dqn_loss()
    SoftUpdate(loss, tau=0.1)
    values = []
    for gamma in (None, 0.99, 0.9):
        if gamma:
            loss.make_value_estimator(gamma=gamma)
        values.append(loss(batch.clone())["loss"].item())
    assert values[0] == values[1] != values[2]


def test_a_loss_without_an_updater_warns_and_an_updater_copies_the_weights():
    loss, batch = dqn_loss()
    with pytest.warns(UserWarning, match="target network updater"):
        loss(batch.clone())
    with torch.no_grad():
        for weight in loss.parameters():
            weight.add_(1)
    SoftUpdate(loss, tau=0.1)
    assert (loss.target_value_network_params.data == loss.value_network_params.data).all()
    loss(batch.clone())  # no warning any more


def test_an_updater_takes_eps_or_tau():
    loss, _ = dqn_loss()
    with pytest.raises(ValueError, match=r"eps|tau"):
        SoftUpdate(loss, eps=0.9, tau=0.1)


def test_without_a_target_network_the_online_weights_are_the_target():
    loss, _ = dqn_loss(delay_value=False)
    for key, weight in loss.value_network_params.items(True, True):
        assert torch.equal(loss.target_value_network_params.get(key), weight)


def stored_episodes(sampler, **options):
    """A buffer with 200 steps of CartPole and its sample."""
    policy = policy_of(lstm())
    env = cartpole(InitTracker(), policy[1].make_tensordict_primer())
    collector = Collector(env, policy, frames_per_batch=200, total_frames=200)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200), sampler=sampler, batch_size=60, **options)
    buffer.extend(next(iter(collector)))
    collector.shutdown()
    return policy, buffer


SLICES = {"slice_len": 10, "traj_key": ("collector", "traj_ids"), "strict_length": False}


def test_a_slice_sampler_marks_its_copy_and_leaves_terminated_and_the_storage():
    _, buffer = stored_episodes(SliceSampler(**SLICES))
    before = buffer[:].clone()
    batch = buffer.sample()
    ends = torch.cat([batch["is_init"][1:], torch.ones(1, 1, dtype=torch.bool)])
    assert torch.equal(batch["next", "done"], ends) and torch.equal(batch["next", "truncated"], ends)
    index = batch["index"].reshape(len(batch), -1)[:, 0]
    assert torch.equal(batch["next", "terminated"], before["next", "terminated"][index])
    assert (buffer[:] == before).all() and not before["next", "done"][index][ends].all()


def episodes(*lengths, **options):
    """A buffer of episodes that count their steps, sampled in slices that may extend beyond the ends."""
    number = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    count = torch.cat([torch.arange(length) for length in lengths])
    data = TensorDict({"count": count, "collector": {"traj_ids": number}}, [len(count)])
    data["next", "done"] = data["is_init"] = torch.zeros(len(count), 1, dtype=torch.bool)
    sampler = SliceSampler(**SLICES, span=True, **options)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(count)), sampler=sampler, batch_size=60)
    buffer.extend(data)
    return buffer


def test_padding_repeats_the_last_step_of_a_slice_that_is_cut():
    buffer = episodes(5, 30, 30, pad_output=True)
    rows = torch.cat([buffer.sample().reshape(-1, 10) for _ in range(50)])
    real = rows["collector", "mask"]
    assert (~real.any(-1)).any()  # a slice may be cut to nothing
    short = real.any(-1) & ~real.all(-1)
    assert short.any() and real[short, 0].all()
    for count, mask in zip(rows["count"][short], real[short], strict=True):
        assert (count[~mask] == count[mask][-1]).all()


def test_padding_is_left_out_where_every_episode_is_as_long_as_a_slice():
    batch = episodes(30, 30, 30, pad_output=True).sample()
    assert ("collector", "mask") not in batch.keys(True)


def test_slices_that_are_cut_to_nothing_fail_without_padding():
    buffer, failed = episodes(30, 30, 30), 0
    for _ in range(300):
        try:
            buffer.sample()
        except IndexError:
            failed += 1
    assert 0 < failed < 100


def test_a_prioritised_batch_has_weights():
    sampler = PrioritizedSliceSampler(200, alpha=0.7, beta=0.9, **SLICES)
    _, buffer = stored_episodes(sampler)
    assert "priority_weight" in buffer.sample().keys()


def test_recurrent_mode_writes_zeros_for_the_states_inside_a_slice():
    policy, buffer = stored_episodes(SliceSampler(**SLICES))
    batch = buffer.sample()
    with torch.no_grad(), set_recurrent_mode(True):
        state = policy[:-1](batch.clone())["next", "recurrent_state_h"].flatten(1).any(-1)
    assert torch.equal(state, batch["next", "done"].squeeze(-1))


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_the_target_pass_of_dqn_loss_leaks_in_rows_that_contain_resets():
    policy, buffer = stored_episodes(SliceSampler(**SLICES))
    rows = buffer[:].reshape(2, 100)
    second = rows["is_init"][0].flatten().nonzero().flatten()[1]  # where the second episode begins
    changed = rows.clone()
    changed["observation"][0, :second] += 1
    changed["next", "observation"][0, :second] += 1
    loss, errors = DQNLoss(policy[:-1], action_space="one-hot"), []
    for data in (rows.clone(), changed):
        with torch.no_grad():
            loss(data)
        errors.append(data["td_error"][0, second : second + 3])
    assert not torch.equal(*errors)


# --- field guide ----------------------------------------------------------------------------------------


def test_a_sampler_marks_starts_only_where_is_init_is_stored():
    buffer = episodes(30, 30)
    data = buffer[:].exclude("is_init", "index")
    bare = TensorDictReplayBuffer(
        storage=LazyTensorStorage(60), sampler=SliceSampler(**SLICES), batch_size=60
    )
    bare.extend(data)
    assert "is_init" not in bare.sample().keys()


def test_a_buffer_without_a_sampler_draws_single_steps():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(60), batch_size=60)
    assert isinstance(buffer.sampler, RandomSampler)


@pytest.mark.parametrize("module", [LSTMModule, GRUModule])
def test_without_is_init_a_recurrent_module_stops(module):
    with pytest.raises(KeyError, match="is_init"):
        module(4, 3, in_key="embed", out_key="memory")(TensorDict(embed=torch.zeros(2, 4), batch_size=[2]))


def test_a_norm_without_statistics_fails_at_reset_and_in_a_copy():
    env = cartpole(ObservationNorm(in_keys=["observation"]))
    with pytest.raises(RuntimeError, match="Loc/Scale"):
        env.reset()
    with pytest.raises(ValueError, match="uninitialized parameter"):
        copy.deepcopy(env.transform)


@pytest.mark.parametrize(("keys", "size"), [(("h", "c"), 3), (("recurrent_state_h", "recurrent_state_c"), 5)])
def test_a_primer_with_wrong_names_forgets_and_one_with_a_wrong_shape_fails(keys, size):
    env = cartpole(InitTracker(), TensorDictPrimer({key: Unbounded((1, size)) for key in keys}))
    policy, read = policy_of(lstm()), []
    policy[1].register_forward_pre_hook(lambda _, args: read.append(args[0].get("recurrent_state_h", None)))
    with torch.no_grad():
        if size == 3:
            env.rollout(10, policy)
            assert all(state is None for state in read)
        else:
            with pytest.raises(RuntimeError, match="hidden"):
                env.rollout(10, policy)


def test_recurrent_mode_reads_the_environments_of_a_batch_as_time():
    memory = lstm()
    step = TensorDict(embed=torch.randn(3, 4), is_init=torch.zeros(3, 1, dtype=torch.bool), batch_size=[3])
    changed = step.clone()
    changed["embed"][0] += 1
    with torch.no_grad():
        for mode in (False, True):
            with set_recurrent_mode(mode):
                first, second = (memory(td.clone())["memory"][2] for td in (step, changed))
            assert torch.equal(first, second) != mode
