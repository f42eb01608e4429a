"""The recurrent loss against a second implementation: one slice, one step and one number at a time."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import GRUModule, LSTMModule, QValueModule, recurrent_mode, set_recurrent_mode
from torchrl.objectives import DQNLoss, SoftUpdate

from recdqn import (
    Config,
    RecurrentDQNLoss,
    add_primers,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.errors import UserError

FEATURES, EMBED, HIDDEN, ACTIONS = 3, 4, 5, 3
GAMMA = 0.9


# --- data: slices in plain tensors, and the batch that holds them ---------------------------------


@dataclass(frozen=True)
class Slice:
    """``observation`` ``[T + 1, F]``; ``action``, ``reward`` ``[T]``; ``state`` each ``[layers, HIDDEN]``.

    ``begins`` says that the slice is the beginning of an episode, ``padding`` that none of it is real.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    state: tuple[Tensor, ...]
    terminated: bool = False
    truncated: bool = False
    begins: bool = False
    padding: bool = False

    def __len__(self) -> int:
        return len(self.action)


def random_slice(length: int, generator: torch.Generator, *, cell="lstm", layers=1, end="cut") -> Slice:
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states = 2 if cell == "lstm" else 1
    return Slice(
        observation=normal(length + 1, FEATURES),
        action=torch.randint(ACTIONS, (length,), generator=generator),
        reward=normal(length),
        state=tuple(normal(layers, HIDDEN) for _ in range(states)),
        terminated=end == "terminated",
        truncated=end == "truncated",
    )


def padding(length: int, generator: torch.Generator, *, cell="lstm", layers=1) -> Slice:
    """Steps that are not data, and ruin every sum they get into."""
    item = random_slice(length, generator, cell=cell, layers=layers)
    nothing = {"observation": item.observation * torch.nan, "reward": item.reward * torch.nan}
    return replace(item, padding=True, **nothing)


def as_batch(slices: list[Slice], *, categorical=False, seed=0, step_count=False) -> TensorDict:
    """Lay slices end to end, as SliceSampler does, with a mask if there is padding.

    Every recurrent state but the one at a slice's start is noise: a loss that reads one gives itself away.
    """
    masked = any(item.padding for item in slices)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for item in slices:
        n = len(item)
        last = torch.zeros(n, 1, dtype=torch.bool)
        last[-1] = True
        names = ["recurrent_state_h", "recurrent_state_c"] if len(item.state) == 2 else ["recurrent_state"]
        state, next_state = {}, {}
        for name, start in zip(names, item.state, strict=True):
            noise = torch.randn(2, n, *start.shape, generator=generator, dtype=torch.float64)
            noise[0, 0] = start
            state[name], next_state[name] = noise
        count = torch.arange(n).reshape(n, 1) + (0 if item.begins else 7)
        action = item.action if categorical else nn.functional.one_hot(item.action, ACTIONS)
        rows.append(
            TensorDict(
                {
                    "observation": item.observation[:-1],
                    "action": action,
                    "is_init": torch.arange(n).reshape(n, 1) == 0,
                    **({"collector": {"mask": torch.full((n,), not item.padding)}} if masked else {}),
                    **({"step_count": count} if step_count else {}),
                    **state,
                    "next": {
                        "observation": item.observation[1:],
                        "reward": item.reward.reshape(n, 1),
                        "terminated": last & item.terminated,
                        "truncated": last & item.truncated,
                        "done": last & (item.terminated or item.truncated),
                        "is_init": torch.zeros(n, 1, dtype=torch.bool),
                        **next_state,
                    },
                },
                batch_size=[n],
            )
        )
    return torch.cat(rows)


# --- networks and losses --------------------------------------------------------------------------


def make_network(
    *, cell="lstm", layers=1, categorical=False, seed=0, memory_key="memory"
) -> TensorDictSequential:
    torch.manual_seed(seed)
    memory = {"lstm": LSTMModule, "gru": GRUModule}[cell](
        input_size=EMBED, hidden_size=HIDDEN, num_layers=layers, in_key="embed", out_key=memory_key
    )
    network = TensorDictSequential(
        TensorDictModule(nn.Sequential(nn.Linear(FEATURES, EMBED), nn.Tanh()), ["observation"], ["embed"]),
        memory,
        TensorDictModule(nn.Linear(HIDDEN, ACTIONS), [memory_key], ["action_value"]),
        QValueModule(action_space="categorical" if categorical else "one-hot"),
    )
    with torch.no_grad():  # large weights, so that memory matters and mistakes are large
        for parameter in network.parameters():
            parameter.mul_(2)
    return network.double()


def make_loss(network, target=None, *, loss=RecurrentDQNLoss, categorical=False, **kwargs):
    """Build the loss; ``target`` gives its target network other weights than the online one."""
    loss_fn = loss(network, action_space="categorical" if categorical else "one-hot", **kwargs)
    if kwargs.get("delay_value", True):
        SoftUpdate(loss_fn, eps=0.9)
        if target is not None:
            loss_fn.target_value_network_params.data.update_(TensorDict.from_module(target).data)
    if loss is DQNLoss:
        loss_fn.make_value_estimator(gamma=GAMMA)
    elif "gamma" not in kwargs:
        loss_fn.gamma.fill_(GAMMA)
    return loss_fn.double()


# --- the second implementation --------------------------------------------------------------------


def step_by_step(
    network: TensorDictSequential, item: Slice, *, burn_in=0, state_source="stored"
) -> list[Tensor]:
    """Q-values of o_0 ... o_T, by calling torch.nn's own modules once per step."""
    embed, head = network[0].module, network[2].module
    memory = network[1].lstm if isinstance(network[1], LSTMModule) else network[1].gru
    states = item.state if state_source == "stored" else [torch.zeros_like(x) for x in item.state]
    state = tuple(states) if isinstance(memory, nn.LSTM) else states[0]
    values = []
    for t, observation in enumerate(item.observation):
        with torch.set_grad_enabled(torch.is_grad_enabled() and t >= burn_in):
            out, state = memory(embed(observation)[None], state)  # [1, HIDDEN]
            values.append(head(out[0]))
    return values


def h(x, eps=1e-3):
    return torch.sign(x) * (torch.sqrt(torch.abs(x) + 1) - 1) + eps * x


def h_inverse(x, eps=1e-3):
    root = (torch.sqrt(1 + 4 * eps * (torch.abs(x) + 1 + eps)) - 1) / (2 * eps)
    return torch.sign(x) * (root**2 - 1)


def by_hand(
    online,
    target,
    slices,
    *,
    gamma=GAMMA,
    n_steps=1,
    double_dqn=True,
    burn_in=0,
    value_rescale=False,
    state_source="stored",
):
    """Loss, and squared error of every step, one slice and one step at a time."""
    counted, errors = [], []
    for item in slices:
        if item.padding or (not item.begins and len(item) <= burn_in):
            errors += [torch.zeros((), dtype=torch.float64)] * len(item)
            continue
        warm = 0 if item.begins else burn_in
        value = step_by_step(online, item, burn_in=warm, state_source=state_source)
        with torch.no_grad():
            target_value = step_by_step(target, item, state_source=state_source)
        errors += [torch.zeros((), dtype=torch.float64)] * warm
        for t in range(warm, len(item)):
            y, end = 0.0, min(t + n_steps, len(item))
            for k in range(t, end):
                y = y + gamma ** (k - t) * item.reward[k]
            if not (item.terminated and end == len(item)):
                best = int((value if double_dqn else target_value)[end].argmax())
                last = target_value[end][best]
                y = y + gamma ** (end - t) * (h_inverse(last) if value_rescale else last)
            counted.append((value[t][item.action[t]] - (h(y) if value_rescale else y)) ** 2)
            errors.append(counted[-1].detach())
    loss = torch.stack(counted).mean() if counted else torch.zeros((), requires_grad=True)
    return loss, torch.stack(errors)


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, check_dtype=False)


@st.composite
def problems(draw):
    """Slices in ``rows`` of ``steps``; a row is cut anywhere; some of it is padding."""
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    cell, layers = draw(st.sampled_from(["lstm", "gru"])), draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    step_count, padded = draw(st.booleans()), draw(st.booleans())
    slices = []
    for _ in range(rows):
        cuts = [k for k in range(1, steps) if draw(st.integers(0, 2)) == 0]
        for low, high in zip([0, *cuts], [*cuts, steps], strict=True):
            if padded and draw(st.integers(0, 3)) == 0:
                slices.append(padding(high - low, generator, cell=cell, layers=layers))
                continue
            end = draw(st.sampled_from(["cut", "terminated", "truncated"]))
            item = random_slice(high - low, generator, cell=cell, layers=layers, end=end)
            begins = draw(st.booleans())
            if draw(st.booleans()) if step_count else begins:  # with a count, the state tells nothing
                item = replace(item, state=tuple(torch.zeros_like(x) for x in item.state))
            slices.append(replace(item, begins=begins))
    return {
        "slices": slices,
        "shape": (rows, steps) if draw(st.booleans()) else (rows * steps,),
        "network": {"cell": cell, "layers": layers, "categorical": draw(st.booleans())},
        "loss": {
            "n_steps": draw(st.integers(1, 5)),
            "double_dqn": draw(st.booleans()),
            "burn_in": draw(st.integers(0, 4)),
            "value_rescale": draw(st.booleans()),
            "state_source": draw(st.sampled_from(["stored", "zero"])),
        },
        "step_count": step_count,
        "sampler_marks_ends": draw(st.booleans()),
        "rows_start_unmarked": draw(st.booleans()),
    }


def check_reference(problem, loss=RecurrentDQNLoss):
    """Loss, errors and gradients are those of the second implementation."""
    slices, options = problem["slices"], problem["network"]
    network, target = make_network(**options, seed=1), make_network(**options, seed=2)
    reference = copy.deepcopy(network)
    expected, errors = by_hand(reference, target, slices, **problem["loss"])
    expected.backward()

    batch = as_batch(slices, categorical=options["categorical"], step_count=problem["step_count"])
    batch = batch.reshape(problem["shape"])
    if problem["sampler_marks_ends"]:  # SliceSampler calls the last step of every slice truncated
        ends = torch.tensor([len(s) for s in slices]).cumsum(0) - 1
        for key in ("truncated", "done"):
            marked = batch["next", key].reshape(-1)
            marked[ends] = True
            batch["next", key] = marked.reshape(*batch.shape, 1)
    if problem["rows_start_unmarked"]:
        batch["is_init"][..., 0, :] = False  # a row starts a slice whatever it says
        flat = batch["is_init"].reshape(-1)  # and so does a step after padding
        starts = torch.tensor([0] + [len(s) for s in slices]).cumsum(0)
        flat[[int(starts[k + 1]) for k, s in enumerate(slices[:-1]) if s.padding]] = False
        batch["is_init"] = flat.reshape(*batch.shape, 1)
    settings_ = problem["loss"] if loss is RecurrentDQNLoss else {}
    loss_fn = make_loss(network, target, loss=loss, categorical=options["categorical"], **settings_)
    result = loss_fn(batch)["loss"]
    result.backward()

    close(result, expected)
    assert batch["td_error"].shape == (*problem["shape"], 1)
    close(batch["td_error"].reshape(-1), errors)
    parameters = dict(network.named_parameters())
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:  # no step counts
            assert parameters[name].grad is None
        else:
            close(parameters[name].grad, parameter.grad, 1e-5)
    assert all(p.grad is None for p in loss_fn.target_value_network_params.parameters())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(problems())
def test_loss_and_gradients_are_those_of_the_second_implementation(problem):
    check_reference(problem)


@pytest.fixture(params=["lstm", "gru"])
def cell(request):
    return request.param


# --- batches as a collector and a buffer make them -------------------------------------------------


def collected(cell="lstm", num_envs=2, frames=256, sampler=None):
    """A policy, and a buffer that a collector filled with it."""
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": num_envs},
        policy={"cell": cell, "hidden_size": 16, "features": 8, "head": 8},
        replay={"slice_len": 6, "slices": 8, "capacity": 1_000},
        train={"total_frames": frames, "frames_per_batch": 64},
    )
    torch.manual_seed(0)
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    if sampler is None:
        buffer = make_replay_buffer(cfg)
    else:
        storage = LazyTensorStorage(1_000, ndim=2)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=48, dim_extend=1)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown()
    return policy, buffer, env


def cut_at_is_init(batch: TensorDict) -> list[Slice]:
    """Turn a flat batch back into slices, checking that each is one piece of one episode."""
    names = [k for k in ("recurrent_state_h", "recurrent_state_c", "recurrent_state") if k in batch.keys()]
    starts = [*batch["is_init"].squeeze(-1).nonzero().squeeze(-1).tolist(), len(batch)]
    slices = []
    for low, high in zip(starts, starts[1:], strict=False):
        part = batch[low:high]
        assert (part["step_count"].diff(dim=0) == 1).all()
        assert len(part["collector", "traj_ids"].unique()) == 1
        assert (part["next", "observation"][:-1] == part["observation"][1:]).all()
        slices.append(
            Slice(
                observation=torch.cat([part["observation"], part["next", "observation"][-1:]]),
                action=part["action"].long().argmax(-1),
                reward=part["next", "reward"].squeeze(-1),
                state=tuple(part[name][0] for name in names),
                terminated=bool(part["next", "terminated"][-1]),
                begins=bool(part["step_count"][0] == 0),
            )
        )
    return slices


REAL = [
    {"n_steps": 1, "double_dqn": False},
    {"n_steps": 3, "burn_in": 2},
    {"n_steps": 5, "burn_in": 3, "value_rescale": True, "double_dqn": False},
    {"n_steps": 2, "burn_in": 1, "state_source": "zero"},
]


def check_real_batches(cell, loss, num_envs=2, options=REAL[0]):
    """What a collector and a buffer made, over five updates of both networks."""
    policy, buffer, env = collected(cell, num_envs)
    network = policy[:-1].double()
    loss_fn = make_loss(network, loss=loss, **(options if loss is RecurrentDQNLoss else {}))
    updater = SoftUpdate(loss_fn, tau=0.3)
    optim = torch.optim.SGD(loss_fn.parameters(), lr=1.0)
    for _ in range(5):
        batch = buffer.sample().apply(lambda x: x.double() if x.is_floating_point() else x)
        slices = cut_at_is_init(batch)
        assert len(slices) == 8 or len(batch) <= 48
        assert {len(s) for s in slices} - set(range(1, 7)) == set()
        online, target = copy.deepcopy(network), copy.deepcopy(network)
        loss_fn.target_value_network_params.data.to_module(target)
        expected, errors = by_hand(online, target, slices, **options)
        result = loss_fn(batch)["loss"]
        close(result, expected)
        close(batch["td_error"].squeeze(-1), errors)
        result.backward()
        expected.backward()
        for a, b in zip(network.parameters(), online.parameters(), strict=True):
            close(a.grad, b.grad, 1e-5)
        optim.step()
        optim.zero_grad()
        updater.step()
    env.close()


@pytest.mark.parametrize("options", REAL, ids=str)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_batches_of_the_buffer(cell, num_envs, options):
    check_real_batches(cell, RecurrentDQNLoss, num_envs, options)


# --- invariants, and what they say about TorchRL's own loss -----------------------------------------

LENGTHS, ENDS = [4, 1, 6, 3], ["terminated", "cut", "truncated", "cut"]
BURN_IN = 2


def four_slices(cell="lstm", seed=3) -> list[Slice]:
    generator = torch.Generator().manual_seed(seed)
    items = [random_slice(n, generator, cell=cell, end=e) for n, e in zip(LENGTHS, ENDS, strict=True)]
    items[0] = replace(items[0], begins=True)
    return items


def two_networks(cell, loss, **kwargs):
    """Online network and loss; what only our loss knows is not asked of TorchRL's."""
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    if loss is RecurrentDQNLoss:
        kwargs = {"n_steps": 3, "burn_in": BURN_IN} | kwargs
    return network, make_loss(network, target, loss=loss, **kwargs)


def counted_batch(slices):
    return as_batch(slices, step_count=True)


def errors_of(loss_fn, slices) -> list[Tensor]:
    batch = counted_batch(slices)
    loss_fn(batch)
    return list(batch["td_error"].squeeze(-1).split([len(s) for s in slices]))


def gradients_of(network, loss_fn, slices, k) -> list[Tensor]:
    """What slice ``k`` adds to the gradient of the sum of all losses."""
    low = sum(len(s) for s in slices[:k])
    losses = loss_fn(counted_batch(slices))["loss"].reshape(-1)[low : low + len(slices[k])]
    return list(torch.autograd.grad(losses.sum(), list(network.parameters())))


def check_order(cell, loss):
    """Permuting the slices changes nothing."""
    _, loss_fn = two_networks(cell, loss)
    slices = four_slices(cell)
    before, whole = errors_of(loss_fn, slices), loss_fn(counted_batch(slices))["loss"]
    for order in ([3, 2, 1, 0], [2, 0, 3, 1], [1, 0, 2, 3]):
        shuffled = [slices[k] for k in order]
        for k, errors in zip(order, errors_of(loss_fn, shuffled), strict=True):
            close(errors, before[k], 1e-12)
        close(loss_fn(counted_batch(shuffled))["loss"], whole, 1e-12)


def check_extra(cell, loss, extra):
    """A slice that does not count changes nothing, wherever it is put."""
    network, loss_fn = two_networks(cell, loss)
    slices = four_slices(cell)
    before = loss_fn(counted_batch(slices))["loss"]
    gradients = torch.autograd.grad(before, list(network.parameters()))
    for place in range(len(slices) + 1):
        more = [*slices[:place], extra, *slices[place:]]
        after = loss_fn(counted_batch(more))["loss"]
        close(after, before, 1e-12)
        for a, b in zip(torch.autograd.grad(after, list(network.parameters())), gradients, strict=True):
            close(a, b, 1e-12)


def check_padding(cell, loss):
    """Adding padding changes nothing, not even if it is NaN."""
    check_extra(cell, loss, padding(3, torch.Generator().manual_seed(9), cell=cell))


def check_short_slice(cell, loss):
    """Adding a slice that is all burn-in changes nothing."""
    for length in (1, BURN_IN):
        check_extra(cell, loss, random_slice(length, torch.Generator().manual_seed(9), cell=cell))


def check_independence(cell, loss):
    """Changing one slice changes its own errors and gradient, and those of no other slice."""
    network, loss_fn = two_networks(cell, loss, reduction="none", **BURNLESS[loss])
    slices = four_slices(cell)
    for changed in range(4):
        others = list(slices)
        others[changed] = four_slices(cell, seed=9)[changed]
        before, after = errors_of(loss_fn, slices), errors_of(loss_fn, others)
        for k in range(4):
            gradients = [gradients_of(network, loss_fn, s, k) for s in (slices, others)]
            far = max((a - b).abs().max() for a, b in zip(*gradients, strict=True))
            if k == changed:
                assert (before[k] - after[k]).abs().max() > 1e-2 and far > 1e-2
            else:
                close(before[k], after[k], 1e-12)
                assert far < 1e-12


BURNLESS = {RecurrentDQNLoss: {"burn_in": 0}, DQNLoss: {}}  # so that every slice has something to change


def check_second_implementation(cell, loss):
    """One-step targets without burn-in or rescaling: what both losses are meant to compute."""
    plain = {
        "n_steps": 1,
        "double_dqn": False,
        "burn_in": 0,
        "value_rescale": False,
        "state_source": "stored",
    }
    check_reference(
        {
            "slices": four_slices(cell),
            "shape": (14,),
            "network": {"cell": cell, "layers": 1, "categorical": False},
            "loss": plain,
            "step_count": True,
            "sampler_marks_ends": False,
            "rows_start_unmarked": False,
        },
        loss,
    )


CHECKS = [
    check_second_implementation,
    check_order,
    check_padding,
    check_short_slice,
    check_independence,
    check_real_batches,
]
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@each_check
def test_recurrent_loss_passes(check, cell):
    check(cell, RecurrentDQNLoss)


@each_check
def test_torchrls_own_loss_fails(check, cell):
    with pytest.raises(AssertionError):
        check(cell, DQNLoss)


# --- one property at a time -----------------------------------------------------------------------


@pytest.fixture
def slices(cell):
    return [replace(item, begins=False) for item in four_slices(cell)]


@pytest.fixture
def loss_fn(cell):
    return make_loss(make_network(cell=cell), make_network(cell=cell, seed=1), gamma=GAMMA, n_steps=3)


def td_error(loss_fn, slices) -> list[Tensor]:
    """Squared errors, one tensor per slice."""
    batch = as_batch(slices)
    loss_fn(batch)
    return list(batch["td_error"].squeeze(-1).split([len(s) for s in slices]))


def test_a_slice_starts_from_its_stored_state(loss_fn, slices):
    zero = [replace(s, state=tuple(torch.zeros_like(x) for x in s.state)) for s in slices]
    for stored, zeroed in zip(td_error(loss_fn, slices), td_error(loss_fn, zero), strict=True):
        assert (stored - zeroed).abs().max() > 1e-3


def test_the_recurrent_layer_may_write_the_key_that_it_reads(slices, cell):
    losses = [
        make_loss(make_network(cell=cell, memory_key=key), gamma=GAMMA, n_steps=3)(as_batch(slices))
        for key in ("memory", "embed")
    ]
    close(*losses, 1e-15)


def test_no_other_stored_state_is_read(loss_fn, slices):
    close(loss_fn(as_batch(slices, seed=0)), loss_fn(as_batch(slices, seed=1)), 1e-15)


def test_slices_of_an_episode_that_ends_in_a_row_need_no_mark(loss_fn, slices):
    """A step after a done one starts a slice, even where is_init was lost."""
    ended = [replace(s, truncated=True) for s in slices]
    batch = as_batch(ended)
    batch["is_init"] = torch.zeros_like(batch["is_init"])
    close(loss_fn(batch), loss_fn(as_batch(ended)), 1e-15)


def test_input_gets_td_error_and_stays_otherwise(loss_fn, slices):
    batch, before = as_batch(slices), as_batch(slices)
    loss_fn(batch)
    assert set(batch.keys(True)) - set(before.keys(True)) == {"td_error"}
    assert not batch["td_error"].requires_grad
    assert (batch.exclude("td_error") == before).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gamma(gamma, slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    loss_fn = make_loss(network, target, gamma=gamma, n_steps=2)
    expected, _ = by_hand(network, target, slices, gamma=gamma, n_steps=2)
    close(loss_fn(as_batch(slices))["loss"], expected)
    close(loss_fn.state_dict()["gamma"], torch.tensor(gamma))


def test_gamma_zero_leaves_the_reward(slices, cell):
    network = make_network(cell=cell)
    expected = [
        torch.stack([(v[a] - r) ** 2 for v, a, r in zip(step_by_step(network, s), s.action, s.reward)])  # noqa: B905
        for s in slices
    ]
    for errors, wanted in zip(td_error(make_loss(network, gamma=0.0), slices), expected, strict=True):
        close(errors, wanted.detach())


def test_double_dqn_is_the_default_and_changes_the_target(slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    default, double, single = (
        make_loss(network, target, **kwargs)(as_batch(slices))["loss"]
        for kwargs in ({}, {"double_dqn": True}, {"double_dqn": False})
    )
    assert default == double and abs(double - single) > 1e-3


def test_the_target_network_is_not_trained(loss_fn, slices):
    target = loss_fn.target_value_network_params
    before = target.data.clone()
    optim = torch.optim.SGD(loss_fn.parameters(), lr=0.1)
    trained = {id(p) for group in optim.param_groups for p in group["params"]}
    assert trained == {id(p) for p in loss_fn.value_network_params.parameters()}
    loss_fn(as_batch(slices))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss_fn.parameters())
    optim.step()
    assert all(not x.requires_grad and x.grad is None for x in target.values(True, True))
    assert (target.data == before).all()


def test_without_delay_the_target_is_the_online_network(slices, cell):
    network = make_network(cell=cell)
    loss_fn = make_loss(network, delay_value=False, double_dqn=False, gamma=GAMMA)
    for _ in range(2):
        expected, _ = by_hand(network, copy.deepcopy(network), slices, double_dqn=False)
        loss = loss_fn(as_batch(slices))["loss"]
        close(loss, expected)
        loss.backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_reduction(reduction, slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    loss = make_loss(network, target, gamma=GAMMA, reduction=reduction)(as_batch(slices))["loss"]
    _, errors = by_hand(network, target, slices)
    close(loss, errors if reduction == "none" else errors.sum())


@pytest.mark.parametrize("shape", [(14,), (2, 7)])
def test_priority_weights(slices, cell, shape):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    slices = [replace(s, truncated=True) for s in slices]
    _, errors = by_hand(network, target, slices)
    batch = as_batch(slices)
    weights = torch.rand(14, dtype=torch.float64)
    batch["priority_weight"] = weights
    if len(shape) == 2:  # a slice of six steps now lies over the edge of the rows: cut it there
        batch = torch.cat([batch, batch]).reshape(2, 14)
        errors, weights = torch.cat([errors, errors]), torch.cat([weights, weights])
    close(make_loss(network, target, gamma=GAMMA)(batch)["loss"], (errors * weights).sum() / weights.sum())
    ignoring = make_loss(network, target, gamma=GAMMA, use_prioritized_weights=False)
    close(ignoring(batch)["loss"], errors.mean())


@pytest.mark.parametrize("shape", [(14,), (1, 14)])
def test_reduction_none_keeps_the_shape_and_is_zero_where_nothing_counts(shape, slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    _, errors = by_hand(network, target, slices, burn_in=2)
    loss_fn = make_loss(network, target, reduction="none", burn_in=2)
    close(loss_fn(as_batch(slices).reshape(shape))["loss"], errors.reshape(shape))
    assert (errors == 0).sum() == 2 + 1 + 2 + 2


def test_nothing_counts(slices, cell):
    network = make_network(cell=cell)
    for reduction in ("mean", "sum"):
        batch = as_batch(slices)
        batch["priority_weight"] = torch.ones(14, dtype=torch.float64)
        loss = make_loss(network, burn_in=6, reduction=reduction)(batch)["loss"]
        loss.backward()
        assert loss == 0 and not batch["td_error"].any()
    assert all(p.grad is None for p in network.parameters())
    nothing_real = as_batch([padding(4, torch.Generator().manual_seed(0), cell=cell)])
    assert make_loss(network)(nothing_real)["loss"] == 0


@pytest.mark.parametrize("name", ["mask", ("collector", "mask"), "shifted_valid", "mine"])
def test_masks_by_name(name, slices, cell):
    loss_fn = make_loss(make_network(cell=cell), n_steps=2)
    padded = [slices[0], padding(2, torch.Generator().manual_seed(0), cell=cell), *slices[1:]]
    batch = as_batch(padded).rename_key_(("collector", "mask"), name)
    if name == "mine":
        loss_fn.loss_mask_key = name
    close(loss_fn(batch)["loss"], loss_fn(as_batch(slices))["loss"], 1e-12)


def test_a_zero_start_needs_no_stored_state(slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    loss_fn = make_loss(network, target, state_source="zero", burn_in=2, n_steps=2)
    batch = as_batch(slices)
    stateless = batch.exclude(*[key for key in batch.keys() if key.startswith("recurrent")])
    expected, _ = by_hand(network, target, slices, state_source="zero", burn_in=2, n_steps=2)
    close(loss_fn(stateless)["loss"], expected)


def test_burn_in_sends_no_gradient_into_the_warm_steps(slices, cell):
    """The gradient with respect to the observations: zero where the state was only warmed."""
    batch = as_batch(slices[2:3])
    batch["observation"].requires_grad_()
    make_loss(make_network(cell=cell), burn_in=2)(batch)["loss"].backward()
    length = batch["observation"].grad.norm(dim=-1)
    assert (length[:2] == 0).all() and (length[2:] > 1e-6).all()


def test_step_count_may_have_another_name(cell):
    loss_fn = make_loss(make_network(cell=cell), burn_in=3)
    slices = four_slices(cell)
    expected = loss_fn(as_batch(slices, step_count=True))["loss"]
    loss_fn.set_keys(step_count="time")
    batch = as_batch(slices, step_count=True).rename_key_("step_count", "time")
    close(loss_fn(batch)["loss"], expected, 1e-12)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_every_frame_is_encoded_once_per_network(burn_in, cell):
    """Count the frames that reach the encoder: o_0 .. o_T of each slice, and the rows' filling, twice."""
    frames = []
    network = make_network(cell=cell)
    network[0].module.register_forward_hook(lambda module, args, out: frames.append(args[0][..., 0].numel()))
    slices = [replace(item, begins=False) for item in four_slices(cell)]
    slices = [slices[0]] * 3  # of equal length, so that nothing is filled
    make_loss(network, burn_in=burn_in)(counted_batch(slices))
    assert sum(frames) == 2 * 3 * (len(slices[0]) + 1)


def test_rescaled_targets_are_shrunk_values():
    """One step, gamma 0: the target is h(r), here in closed form."""
    item = replace(random_slice(1, torch.Generator().manual_seed(0)), reward=torch.tensor([3.0]).double())
    network = make_network()
    value = step_by_step(network, item)[0][item.action[0]].item()
    loss_fn = make_loss(network, gamma=0.0, value_rescale=True)
    close(loss_fn(as_batch([item]))["loss"].item(), (value - (2 - 1 + 0.003)) ** 2)


def test_smooth_l1(slices, cell):
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    _, errors = by_hand(network, target, slices)
    loss = make_loss(network, target, gamma=GAMMA, loss_function="smooth_l1")(as_batch(slices))["loss"]
    close(loss, torch.where(errors < 1, errors / 2, errors.sqrt() - 0.5).mean())


def test_float32_parameters_and_rewards(slices, cell):
    loss_fn = make_loss(make_network(cell=cell), make_network(cell=cell, seed=1), gamma=GAMMA, n_steps=3)
    expected = loss_fn(as_batch(slices))["loss"]
    single = as_batch(slices).apply(lambda x: x.float() if x.is_floating_point() else x)
    loss = loss_fn.float()(single)["loss"]
    assert loss.dtype == torch.float32
    close(loss, expected, 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(slices, cell):
    loss_fn = make_loss(make_network(cell=cell), make_network(cell=cell, seed=1), gamma=GAMMA, n_steps=3)
    expected = loss_fn(as_batch(slices))["loss"]
    close(loss_fn.to("cuda")(as_batch(slices).to("cuda"))["loss"].cpu(), expected)


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_mode_is_sequential_mode(slices, cell, layers):
    """One call over slices laid end to end, against one call per step, starting from the stored states."""
    generator = torch.Generator().manual_seed(4)
    slices = [random_slice(len(s), generator, cell=cell, layers=layers) for s in slices]
    network = make_network(cell=cell, layers=layers)
    batch = as_batch(slices)
    with set_recurrent_mode(True):
        at_once = network(batch.clone())["action_value"]
    expected = torch.cat([torch.stack(step_by_step(network, s)[:-1]) for s in slices])
    close(at_once, expected)

    one_by_one = []
    for item in slices:
        names = sorted(
            (key for key in batch.keys() if key.startswith("recurrent")), reverse=True
        )  # h before c
        state = dict(zip(names, item.state, strict=True))
        for k in range(len(item)):
            # sequential mode takes is_init for the start of an episode and zeroes the state there
            step = TensorDict(
                {"observation": item.observation[k], "is_init": torch.zeros(1, dtype=torch.bool), **state}
            )
            one_by_one.append(network(step)["action_value"])
            state = {key: step["next", key] for key in state}
    close(torch.stack(one_by_one), at_once)


class Spy(nn.Module):
    """Write down the modes in which it is called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((recurrent_mode(), exploration_type()))
        return x


def test_the_loss_sets_its_modes_and_puts_them_back(slices, cell):
    spy = Spy()
    network = make_network(cell=cell)
    network[0].module.append(spy)
    make_loss(network)(as_batch(slices))
    assert spy.seen == [(True, ExplorationType.DETERMINISTIC)] * 2  # online and target: each runs once
    assert recurrent_mode() is None


# --- wrong input ----------------------------------------------------------------------------------


def test_a_network_without_memory_is_refused():
    linear = TensorDictModule(nn.Linear(FEATURES, ACTIONS), ["observation"], ["action_value"])
    network = TensorDictSequential(linear, QValueModule(action_space="one-hot"))
    with pytest.raises(UserError, match="no memory.*is_init.*LSTMModule"):
        RecurrentDQNLoss(network, action_space="one-hot")
    with pytest.raises(UserError, match="no memory"):
        RecurrentDQNLoss(nn.Linear(FEATURES, ACTIONS), action_space="one-hot")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_steps": 0}, "n_steps=0: expected a whole number of at least 1"),
        ({"n_steps": 1.5}, "n_steps=1.5"),
        ({"burn_in": -1}, "burn_in=-1: expected a whole number of at least 0"),
        ({"burn_in": True}, "burn_in=True"),
        ({"state_source": "last"}, "state_source='last': choose one of 'stored', 'zero'"),
        ({"loss_function": "l3"}, "loss_function='l3'.*'smooth_l1'"),
        ({"reduction": "median"}, "reduction='median'.*'none'"),
    ],
)
def test_wrong_settings(setting, message):
    with pytest.raises(UserError, match=message):
        RecurrentDQNLoss(make_network(), action_space="one-hot", **setting)


def test_several_actions_at_once_are_refused():
    with pytest.raises(UserError, match="mult_one_hot"):
        RecurrentDQNLoss(make_network(), action_space="mult-one-hot")


def test_a_value_estimator_would_be_ignored_and_is_refused():
    with pytest.raises(UserError, match="gamma=0.5"):
        RecurrentDQNLoss(make_network(), action_space="one-hot").make_value_estimator(gamma=0.5)


@pytest.mark.parametrize("missing", ["observation", "reward"])
def test_a_batch_without_the_next_observation_is_refused(slices, loss_fn, missing):
    batch = as_batch(slices)
    del batch["next", missing]
    with pytest.raises(KeyError, match=missing):
        loss_fn(batch)


def test_a_batch_without_the_stored_state_is_refused(slices, loss_fn):
    batch = as_batch(slices)
    key = next(k for k in batch.keys() if k.startswith("recurrent"))
    del batch[key]
    with pytest.raises(KeyError, match=key):
        loss_fn(batch)


# --- other layouts of the buffer, and settings one at a time --------------------------------------


def test_padded_slices_count_their_real_steps_only():
    """With ``pad_output`` the sampler repeats a short slice's last step and marks the copies as invalid."""
    sampler = SliceSampler(
        slice_len=24, strict_length=False, traj_key=("collector", "traj_ids"), pad_output=True
    )
    policy, buffer, env = collected(sampler=sampler)
    loss_fn = RecurrentDQNLoss(policy[:-1], action_space=env.action_spec_unbatched, n_steps=4)
    SoftUpdate(loss_fn, tau=0.3)
    padded = 0
    for _ in range(10):
        batch = buffer.sample()
        if ("collector", "mask") not in batch.keys(True):  # no short slice among these
            continue
        real = batch["collector", "mask"]
        padded += int((~real).sum())
        plain = batch[real].exclude(("collector", "mask"))
        loss, expected = loss_fn(batch)["loss"], loss_fn(plain)["loss"]
        close(loss, expected, 1e-6)
        close(batch["td_error"][real], plain["td_error"], 1e-6)
    assert padded > 0
    env.close()


def test_the_exploration_module_does_not_change_the_loss():
    policy, buffer, env = collected()
    batch = buffer.sample()
    losses = []
    for network in (policy, policy[:-1]):
        loss_fn = RecurrentDQNLoss(network, action_space=env.action_spec_unbatched)
        SoftUpdate(loss_fn, tau=0.3)
        losses.append(loss_fn(batch.clone())["loss"])
    assert losses[0] == losses[1]
    env.close()


# --- what TorchRL 0.14.1's own DQNLoss does, so that the book's account of it stays true ---------------


def own_loss(network, target, slices, **kwargs):
    batch = as_batch(slices)
    make_loss(network, target, loss=DQNLoss, **kwargs)(batch)
    return list(batch["td_error"].squeeze(-1).split([len(s) for s in slices]))


def test_torchrl_leaks_over_resets_inside_rows(cell):
    """Rows ``[B, T]`` with an episode's end inside: what comes after it hears what came before."""
    generator = torch.Generator().manual_seed(5)
    first, second, other = (random_slice(n, generator, cell=cell, end="terminated") for n in (3, 4, 3))
    network = make_network(cell=cell)
    differences = []
    for loss in (DQNLoss, RecurrentDQNLoss):
        loss_fn, after = make_loss(network, loss=loss), []
        for before in (first, other):
            rows = as_batch([before, second, before, second]).reshape(2, 7)
            loss_fn(rows)
            after.append(rows["td_error"][:, 3:])
        differences.append((after[0] - after[1]).abs().max().item())
    assert differences[0] > 1e-2 and differences[1] < 1e-12


@pytest.mark.parametrize("double_dqn", [False, True])
def test_torchrl_leaks_from_slice_to_slice(slices, cell, double_dqn):
    """Its target pass: a change in one slice changes the errors of the next one."""
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    generator = torch.Generator().manual_seed(9)
    others = [*slices[:2], random_slice(len(slices[2]), generator, cell=cell), slices[3]]
    before = own_loss(network, target, slices, double_dqn=double_dqn)
    after = own_loss(network, target, others, double_dqn=double_dqn)
    close(before[0], after[0], 1e-12)
    assert (before[3] - after[3]).abs().max() > 1e-2

    _, errors = by_hand(network, target, slices, double_dqn=double_dqn)
    differences = [
        (mine - own).abs().max().item()
        for mine, own in zip(errors.split([len(s) for s in slices]), before, strict=True)
    ]
    assert min(differences[1:]) > 1e-2


def test_torchrl_agrees_on_a_single_step(cell):
    """One slice of one step: its target reads o_1 from the state that the online network made of o_0."""
    generator = torch.Generator().manual_seed(5)
    item = random_slice(1, generator, cell=cell)
    network = make_network(cell=cell)
    _, errors = by_hand(network, network, [item])
    close(own_loss(network, None, [item])[0], errors, 1e-6)


def test_torchrl_starts_the_target_at_the_second_observation_with_an_empty_memory(cell):
    """Even alone, a longer slice loses the stored state and o_0 in its target pass."""
    generator = torch.Generator().manual_seed(5)
    item = random_slice(5, generator, cell=cell)
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    _, errors = by_hand(network, target, [item], double_dqn=False)
    own = own_loss(network, target, [item])[0]
    assert (own - errors).abs().max() > 1e-2

    late = replace(
        item, observation=item.observation[1:], state=tuple(torch.zeros_like(s) for s in item.state)
    )
    value = torch.stack(step_by_step(network, item))[:-1]
    target_value = torch.stack(step_by_step(target, late))
    y = item.reward + GAMMA * target_value.max(-1).values
    close(own, (value[range(5), item.action] - y).square().detach())
