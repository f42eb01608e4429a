"""The recurrent Q-learning loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule, TensorDictSequential, dispatch
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.objectives import DQNLoss, ValueEstimators, distance_loss

from recdqn.config import LossConfig
from recdqn.errors import UserError
from recdqn.loss.slices import Layout, Slices, Steps, find_slices, lay_out
from recdqn.loss.targets import n_step_target, sum_rewards
from recdqn.loss.unroll import Prefix, Sequences, States, Unroll, rectangle
from recdqn.loss.weights import Weights

CHOICES = {
    "state_source": ("stored", "zero"),
    "loss_function": ("l2", "l1", "smooth_l1"),
    "reduction": ("mean", "sum", "none"),
}


class RecurrentDQNLoss(DQNLoss):
    r"""Q-learning on slices of episodes; no state is carried from one slice into another.

    A slice has observations :math:`o_0, \dots, o_T` and a stored recurrent state :math:`s_0`. The online and
    the target network each read all observations once, starting from :math:`s_0`, and each keeps its own
    state. The target of step :math:`t` is

    .. math::

        y_t = h\Bigl(\sum_{k=0}^{m-1} \gamma^k r_{t+k}
              + \gamma^m (1 - d_{t+m-1})\, h^{-1}\bigl(Q_{\text{target}}(o_{0..t+m}, a^*)\bigr)\Bigr),

    where :math:`m` is ``n_steps``, or less where the slice ends first; :math:`d` is "terminated" (a time
    limit does not stop the bootstrap); and :math:`a^*` is the best action after :math:`o_{0..t+m}` according
    to the online network (``double_dqn``) or the target network. :math:`h` is the identity, or with
    ``value_rescale``

    .. math::

        h(x) = \operatorname{sign}(x) \bigl(\sqrt{|x| + 1} - 1\bigr) + 10^{-3} x.

    The loss is the mean distance between :math:`Q(o_{0..t}, a_t)` and :math:`y_t` over the steps in the loss.
    The first ``burn_in`` steps of a slice are not in the loss: they only update the state of each network,
    without gradient. A slice at the start of an episode has no burn-in. A slice with ``burn_in`` steps or
    fewer is left out.

    Args:
        value_network: the policy without exploration, such as ``make_policy(...)[:-1]``. Without a recurrent
            layer this is the n-step loss of a DQN.

    Keyword Args:
        gamma: discount per environment step; 0.99 as in :cite:t:`mnih2015human`.
        n_steps: rewards summed before the bootstrap, in environment steps; 1 as in :cite:t:`mnih2015human`
            (:cite:t:`kapturowski2019recurrent` use 5).
        double_dqn: whether the online network picks the action; true as in :cite:t:`vanhasselt2016deep`.
        burn_in: steps at the start of a slice that only update the state, in environment steps; 0 as in
            :cite:t:`hausknecht2015deep` (:cite:t:`kapturowski2019recurrent` use 40 before slices of 80).
        value_rescale: whether the network learns :math:`h` of the value; false as in :cite:t:`mnih2015human`.
            The function is from :cite:t:`pohlen2018observe`, its 0.001 from
            :cite:t:`kapturowski2019recurrent`.
        state_source: ``"stored"`` starts slices from the state in the batch, as in
            :cite:t:`kapturowski2019recurrent`; ``"zero"`` from zeros, as in :cite:t:`hausknecht2015deep`, and
            then the batch needs no stored state.
        loss_function: ``"l2"`` as in :cite:t:`kapturowski2019recurrent`, ``"l1"`` or ``"smooth_l1"``.
        reduction: ``"mean"`` as in :cite:t:`mnih2015human`, ``"sum"``, or ``"none"`` (the shape of the batch,
            0 for steps outside the loss).
        kwargs: further arguments of :class:`torchrl.objectives.DQNLoss`.

    The input is the flat batch ``[N]`` of :class:`torchrl.data.SliceSampler`, or ``[B, T]``. A slice starts
    from the state stored there at every true ``"is_init"``, at the start of a row, after a done step and
    after padding. Padding is where ``("collector", "mask")``, ``"shifted_valid"`` or ``"mask"`` is false, or,
    with the attribute ``loss_mask_key``, where that entry is. A slice starts an episode if its first
    ``"step_count"`` is 0, or, without a step counter, if its stored state is all zeros.
    ``"td_error"`` (squared error of each step, ``[..., 1]``, 0 outside the loss) is written into the input,
    for priorities. A batch without any step in the loss has the loss 0.

    Raises:
        UserError: if an argument is out of its range, if an action consists of several choices, and from
            :meth:`make_value_estimator`, which would have no effect here.
        KeyError: in a call, if the batch lacks the stored recurrent state, the next observation, or another
            entry.
    """

    # TorchRL 0.14.1's losses are extended through _AcceptedKeys, _loss_mask_keys and _reduce_loss.
    @dataclass
    class _AcceptedKeys(DQNLoss._AcceptedKeys):
        step_count: NestedKey = "step_count"

    default_keys = _AcceptedKeys

    def __init__(
        self,
        value_network: TensorDictModule,
        *,
        gamma: float = 0.99,
        n_steps: int = 1,
        double_dqn: bool = True,
        burn_in: int = 0,
        value_rescale: bool = False,
        state_source: Literal["stored", "zero"] = "stored",
        loss_function: Literal["l2", "l1", "smooth_l1"] = "l2",
        reduction: Literal["mean", "sum", "none"] = "mean",
        **kwargs: Any,
    ) -> None:
        for name, value, least in (("n_steps", n_steps, 1), ("burn_in", burn_in, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}={value!r}: expected a whole number of at least {least}")
        if not isinstance(gamma, (int, float, np.integer, np.floating)) or not 0 <= gamma <= 1:
            raise UserError(f"gamma={gamma!r}: expected a number from 0 to 1")
        given = {"state_source": state_source, "loss_function": loss_function, "reduction": reduction}
        for name, choice in given.items():
            if choice not in CHOICES[name]:
                raise UserError(f"{name}={choice!r}: choose one of {', '.join(map(repr, CHOICES[name]))}")
        super().__init__(
            value_network, double_dqn=double_dqn, loss_function=loss_function, reduction=reduction, **kwargs
        )
        if self.action_space not in ("one_hot", "categorical"):
            raise UserError(f"action_space={self.action_space!r}: expected 'one-hot' or 'categorical'")
        self.register_buffer("gamma", torch.tensor(gamma, dtype=torch.float32))
        self.n_steps = n_steps
        self.burn_in = burn_in
        self.value_rescale = value_rescale
        self.state_source = state_source
        self._unroll = Unroll(self.value_network)
        self._online, self._target = Weights(self.value_network), Weights(self.value_network)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return ``"loss"`` for a batch of slices, and write ``"td_error"`` into it."""
        slices = self._slices(tensordict)
        shape, weights, mask = tensordict.shape, None, None
        if (slices.length > slices.burn_in).any():
            layout = lay_out(slices, self.n_steps, tensordict["is_init"].device)
            chosen, target = self._values_and_targets(tensordict, layout)
            loss = distance_loss(chosen, target, self.loss_function)
            error = (chosen.detach() - target).square()
            if not layout.everything:
                loss, error = (x.new_zeros(slices.total).index_copy(0, layout.step, x) for x in (loss, error))
                if self.reduction != "none":
                    mask = torch.zeros_like(error, dtype=torch.bool).index_fill_(0, layout.step, True)
                    mask = mask.reshape(shape)
            if self.use_prioritized_weights:
                weights = tensordict.get(self.tensor_keys.priority_weight, None)
        else:
            loss = torch.zeros(slices.total, dtype=torch.float32, device=tensordict["is_init"].device)
            error = torch.zeros_like(loss)
            loss.requires_grad_()  # so that backward() works, and does nothing
        tensordict.set(self.tensor_keys.priority, error.reshape(*shape, 1))
        return TensorDict(loss=self._reduce_loss(loss.reshape(shape), mask=mask, weights=weights))

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams: float) -> None:
        """Refuse: this loss computes its own targets and would ignore the discount given here."""
        given = ", ".join(f"{name}={value}" for name, value in hyperparams.items())
        raise UserError(
            f"make_value_estimator({given}) would change nothing: give gamma and n_steps to RecurrentDQNLoss"
        )

    def steps(self, tensordict: TensorDictBase) -> Steps:
        """Find the slices of a batch, their burn-in steps and their steps in the loss."""
        steps = self._slices(tensordict).steps()
        return Steps(**{name: x.to(tensordict["is_init"].device) for name, x in vars(steps).items()})

    def _slices(self, tensordict: TensorDictBase) -> Slices:
        """Find the slices of a batch and the length of their burn-in."""
        flags = [tensordict["is_init"], tensordict["next", self.tensor_keys.done], *self._masks(tensordict)]
        if self.burn_in:
            flags.append(self._starts_episode(tensordict))
        is_init, done, *masks = torch.stack([flag.reshape(-1) for flag in flags]).cpu().numpy()
        starts_episode = masks.pop() if self.burn_in else None
        valid = np.logical_and.reduce(masks) if masks else None
        first, length = find_slices(is_init.reshape(tensordict.shape), done, valid)
        burn_in = np.zeros_like(first)
        if starts_episode is not None:
            burn_in[~starts_episode[first]] = self.burn_in
        return Slices(first, length, burn_in, total=len(done))

    def _masks(self, tensordict: TensorDictBase) -> list[Tensor]:
        """Return the entries that are false for padding."""
        keys = self._loss_mask_keys()
        if self.loss_mask_key == "auto":
            keys = (*keys, "mask")  # split_trajectories writes it if the collector's keys are not nested
        return [mask for key in keys if (mask := tensordict.get(key, None)) is not None]

    def _starts_episode(self, tensordict: TensorDictBase) -> Tensor:
        """Whether each step would start an episode, if it were the first of its slice: ``[N]``."""
        count = tensordict.get(self.tensor_keys.step_count, None)
        if count is not None:
            return count.reshape(-1) == 0
        states = [tensordict.get(key, None) for key in self._unroll.state_keys]
        if not states or any(state is None for state in states):
            return torch.zeros_like(tensordict["is_init"]).reshape(-1)
        total = tensordict.numel()
        return torch.stack([(state.reshape(total, -1) == 0).all(-1) for state in states]).all(0)

    def _values_and_targets(self, tensordict: TensorDictBase, layout: Layout) -> tuple[Tensor, Tensor]:
        """Compute the chosen value and the target of each step in the loss, ``[C]`` each."""
        keys, flat = self.tensor_keys, partial(_flat, tensordict)
        sequences, burn_in = self._sequences(tensordict, layout)
        with self._online.lent(self.value_network_params):
            value = self._unroll(sequences, burn_in)[keys.action_value].flatten(0, 1)  # [S * W, actions]
        with torch.no_grad():
            # without a target network, its parameters are new views of the online ones in every call
            params = self.target_value_network_params if self.delay_value else self.value_network_params
            with self._target.lent(params):
                target_value = self._unroll(sequences, burn_in)[keys.action_value].flatten(0, 1)
            chooser = value if self.double_dqn else target_value
            if self._unroll.mask_key is not None:
                legal = rectangle(sequences.frames[self._unroll.mask_key], sequences).flatten(0, 1)
                chooser = chooser.masked_fill(~legal, torch.finfo(chooser.dtype).min)
            best = chooser.argmax(-1, keepdim=True)
            bootstrap = target_value.gather(-1, best).squeeze(-1)
            reward = _take(flat(("next", keys.reward)).reshape(-1), layout)
            rewards = reward.new_zeros(value.shape[:1]).index_copy(0, layout.cell, reward)
            rewards = sum_rewards(rewards.unflatten(0, layout.shape), self.gamma, self.n_steps)
            target = n_step_target(
                rewards.reshape(-1).index_select(0, layout.cell),
                flat(("next", keys.terminated)).reshape(-1).index_select(0, layout.step + layout.rewards - 1),
                bootstrap.index_select(0, layout.cell + layout.rewards),
                self.gamma ** layout.rewards.to(bootstrap.dtype),
                value_rescale=self.value_rescale,
            )
        action = _take(flat(keys.action), layout)
        if self.action_space != "categorical":
            action = action.long().argmax(-1)
        return value.reshape(-1).index_select(0, layout.cell * value.shape[-1] + action.reshape(-1)), target

    def _sequences(self, tensordict: TensorDictBase, layout: Layout) -> tuple[Sequences, Prefix | None]:
        """Gather what the networks read: o_0 .. o_T of each slice, and its burn-in."""
        keys, flat = self._unroll.observation_keys, partial(_flat, tensordict)
        frames = {
            key: torch.cat([_take(flat(key), layout), flat(unravel_key(("next", key)))[layout.last]])
            for key in keys
        }
        cell = torch.cat([layout.cell, layout.last_cell])
        sequences = Sequences(frames, layout.shape, cell, self._initial_states(tensordict, layout.first))
        if layout.burn_in is None:
            return sequences, None
        rows, first, step = layout.burn_in
        frames = {key: flat(key)[step] for key in keys}
        states = self._initial_states(tensordict, first)
        return sequences, Prefix(Sequences(frames, (len(rows), self.burn_in), None, states), rows)

    def _initial_states(self, tensordict: TensorDictBase, first: Tensor) -> States:
        """Return the recurrent states at the start of slices: ``[slices, layers, hidden]`` each."""
        states = {}
        for key in self._unroll.state_keys:
            if self.state_source == "stored":
                states[key] = _flat(tensordict, key)[first]
            elif tensordict.get(key, None) is not None:
                states[key] = torch.zeros_like(_flat(tensordict, key)[first])
        return states


def _flat(tensordict: TensorDictBase, key: NestedKey) -> Any:
    """Return an entry with one batch dimension: ``[N, ...]``."""
    value = tensordict[key]
    return value if tensordict.ndim == 1 else value.flatten(0, tensordict.ndim - 1)


def _take(value: Tensor, layout: Layout) -> Tensor:
    """Return the entries ``[N, ...]`` of the steps in the loss: ``[C, ...]``."""
    return value if layout.everything else value[layout.step]


def make_loss(cfg: LossConfig, policy: TensorDictSequential, env: EnvBase) -> RecurrentDQNLoss:
    """Build the loss that trains ``policy[:-1]``, the policy without exploration, in ``env``."""
    return RecurrentDQNLoss(
        policy[:-1],
        action_space=env.action_spec_unbatched,
        gamma=cfg.gamma,
        n_steps=cfg.n_steps,
        double_dqn=cfg.double_dqn,
        burn_in=cfg.burn_in,
        value_rescale=cfg.value_rescale,
        state_source="stored" if cfg.stored_state else "zero",
    )
