"""A second implementation of the recurrent loss: one slice, one step and one number at a time."""

from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.modules import GRUModule, LSTMModule, QValueModule
from torchrl.objectives import DQNLoss, SoftUpdate

from recdqn import RecurrentDQNLoss

FEATURES, EMBED, HIDDEN, ACTIONS = 3, 4, 5, 3
GAMMA = 0.9
LENGTHS, ENDS = [4, 1, 6, 3], ["terminated", "cut", "truncated", "cut"]


@dataclass(frozen=True)
class Slice:
    """``observation`` ``[T + 1, F]``; ``action``, ``reward`` ``[T]``; ``state`` each ``[layers, HIDDEN]``.

    ``begins``: the slice begins an episode. ``padding``: all of its steps are padding.
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

    states = {"lstm": 2, "gru": 1, "none": 0}[cell]
    return Slice(
        observation=normal(length + 1, FEATURES),
        action=torch.randint(ACTIONS, (length,), generator=generator),
        reward=normal(length),
        state=tuple(normal(layers, HIDDEN) for _ in range(states)),
        terminated=end == "terminated",
        truncated=end == "truncated",
    )


def padding(length: int, generator: torch.Generator, *, cell="lstm", layers=1) -> Slice:
    """Padding of NaN, which spoils every sum that includes it."""
    item = random_slice(length, generator, cell=cell, layers=layers)
    nothing = {"observation": item.observation * torch.nan, "reward": item.reward * torch.nan}
    return replace(item, padding=True, **nothing)


def four_slices(cell="lstm", seed=3) -> list[Slice]:
    generator = torch.Generator().manual_seed(seed)
    items = [random_slice(n, generator, cell=cell, end=e) for n, e in zip(LENGTHS, ENDS, strict=True)]
    items[0] = replace(items[0], begins=True)
    return items


def as_batch(slices: list[Slice], *, categorical=False, seed=0, step_count=False) -> TensorDict:
    """Lay slices end to end, as SliceSampler does, with a mask if there is padding.

    Every recurrent state but the one at a slice's start is noise: so a loss that reads one is wrong.
    """
    masked = any(item.padding for item in slices)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for item in slices:
        n = len(item)
        last = torch.zeros(n, 1, dtype=torch.bool)
        last[-1] = True
        names = [[], ["recurrent_state"], ["recurrent_state_h", "recurrent_state_c"]][len(item.state)]
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


def make_network(
    *, cell="lstm", layers=1, categorical=False, seed=0, memory_key="memory"
) -> TensorDictSequential:
    torch.manual_seed(seed)
    memory, width = [], EMBED
    if cell == "none":
        memory_key = "embed"
    else:
        kind, width = {"lstm": LSTMModule, "gru": GRUModule}[cell], HIDDEN
        memory = [
            kind(input_size=EMBED, hidden_size=HIDDEN, num_layers=layers, in_key="embed", out_key=memory_key)
        ]
    network = TensorDictSequential(
        TensorDictModule(nn.Sequential(nn.Linear(FEATURES, EMBED), nn.Tanh()), ["observation"], ["embed"]),
        *memory,
        TensorDictModule(nn.Linear(width, ACTIONS), [memory_key], ["action_value"]),
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


def step_by_step(
    network: TensorDictSequential, item: Slice, *, burn_in=0, state_source="stored"
) -> list[Tensor]:
    """Q-values of o_0 ... o_T, by calling torch.nn's own modules once per step."""
    embed, head = network[0].module, network[-2].module
    if not item.state:
        return [head(embed(observation)) for observation in item.observation]
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
    terms, errors = [], []
    for item in slices:
        if item.padding or (not item.begins and len(item) <= burn_in):
            errors += [torch.zeros((), dtype=torch.float64)] * len(item)
            continue
        skipped = 0 if item.begins else burn_in
        value = step_by_step(online, item, burn_in=skipped, state_source=state_source)
        with torch.no_grad():
            target_value = step_by_step(target, item, state_source=state_source)
        errors += [torch.zeros((), dtype=torch.float64)] * skipped
        for t in range(skipped, len(item)):
            y, end = 0.0, min(t + n_steps, len(item))
            for k in range(t, end):
                y = y + gamma ** (k - t) * item.reward[k]
            if not (item.terminated and end == len(item)):
                best = int((value if double_dqn else target_value)[end].argmax())
                last = target_value[end][best]
                y = y + gamma ** (end - t) * (h_inverse(last) if value_rescale else last)
            terms.append((value[t][item.action[t]] - (h(y) if value_rescale else y)) ** 2)
            errors.append(terms[-1].detach())
    loss = torch.stack(terms).mean() if terms else torch.zeros((), requires_grad=True)
    return loss, torch.stack(errors)


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, check_dtype=False)
