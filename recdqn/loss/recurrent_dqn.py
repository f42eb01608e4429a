"""The recurrent Q-learning loss (chapter 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams, unravel_key
from tensordict.nn import TensorDictModule, TensorDictSequential, dispatch
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.modules import QValueModule
from torchrl.modules.functional import signed_hyperbolic, signed_parabolic
from torchrl.objectives import DQNLoss, ValueEstimators, distance_loss

from recdqn.config import LossConfig
from recdqn.errors import UserError

CHOICES = {
    "state_source": ("stored", "zero"),
    "loss_function": ("l2", "l1", "smooth_l1"),
    "reduction": ("mean", "sum", "none"),
}


@dataclass(frozen=True)
class Steps:
    """Which steps of a batch do what, each ``[N]`` (chapter 4).

    Attributes:
        row: the slice that a step belongs to; -1 for padding.
        column: its place in that slice; -1 for padding.
        warm: whether it only warms the recurrent state.
        counts: whether it is in the loss. A step of a slice that is too short neither warms nor counts.
    """

    row: Tensor
    column: Tensor
    warm: Tensor
    counts: Tensor


class RecurrentDQNLoss(DQNLoss):
    r"""Q-learning on slices of episodes, without memory leaking from one slice into another (chapter 4).

    A slice has observations :math:`o_0, \dots, o_T` and a stored recurrent state :math:`s_0`. The online and
    the target network each read all of them once, from :math:`s_0`, each carrying a state of its own. The
    target of step :math:`t` is

    .. math::

        y_t = h\Bigl(\sum_{k=0}^{m-1} \gamma^k r_{t+k}
              + \gamma^m (1 - d_{t+m-1})\, h^{-1}\bigl(Q_{\text{target}}(o_{0..t+m}, a^*)\bigr)\Bigr),

    where :math:`m` is ``n_steps``, or less where the slice ends first; :math:`d` is "terminated" (a time
    limit does not stop the bootstrap); and :math:`a^*` is the best action after :math:`o_{0..t+m}` of the
    online network (``double_dqn``) or of the target network. :math:`h` is the identity, or with
    ``value_rescale``

    .. math::

        h(x) = \operatorname{sign}(x) \bigl(\sqrt{|x| + 1} - 1\bigr) + 10^{-3} x.

    The loss is the mean, over the steps that count, of the distance between :math:`Q(o_{0..t}, a_t)` and
    :math:`y_t`. The first ``burn_in`` steps of a slice do not count: they warm the state of each network,
    without gradient. A slice that begins an episode needs no warming, so all its steps count. A slice with
    no more than ``burn_in`` steps is left out. Every frame passes each network once.

    Args:
        value_network: the policy without exploration, such as ``make_policy(...)[:-1]``; it must read
            ``"is_init"``.

    Keyword Args:
        gamma: discount per environment step; 0.99 as in :cite:t:`mnih2015human`.
        n_steps: rewards summed before the bootstrap, in environment steps; 1 as in :cite:t:`mnih2015human`
            (:cite:t:`kapturowski2019recurrent` use 5).
        double_dqn: whether the online network picks the action; true as in :cite:t:`vanhasselt2016deep`.
        burn_in: steps at a slice's start that only warm the state, in environment steps; 0 as in
            :cite:t:`hausknecht2015deep` (:cite:t:`kapturowski2019recurrent` use 40 before slices of 80).
        value_rescale: whether the network learns :math:`h` of the value; false as in :cite:t:`mnih2015human`.
            The function is that of :cite:t:`pohlen2018observe`, for returns of very different sizes.
        state_source: ``"stored"`` starts slices from the state in the batch, as in
            :cite:t:`kapturowski2019recurrent`; ``"zero"`` from zeros, as in :cite:t:`hausknecht2015deep`, and
            then the batch needs no stored state.
        loss_function: ``"l2"`` as in :cite:t:`kapturowski2019recurrent`, ``"l1"`` or ``"smooth_l1"``.
        reduction: ``"mean"`` as in :cite:t:`mnih2015human`, ``"sum"``, or ``"none"`` (shaped as the batch, 0
            where a step does not count).
        kwargs: everything else that :class:`torchrl.objectives.DQNLoss` takes.

    The input is the flat batch ``[N]`` of :class:`torchrl.data.SliceSampler`, or ``[B, T]``. Every true
    ``"is_init"``, every row, every step after a done one and every step after padding starts a slice from
    the state stored there. Padding is what ``("collector", "mask")`` or ``loss_mask_key`` marks false. A
    slice begins an episode where ``"step_count"`` is 0, or, without a step counter, where the stored state
    is all zeros. ``"td_error"`` (the squared error of each step, ``[..., 1]``, 0 where it does not count) is
    written into the input, for priorities. A batch in which nothing counts has the loss 0.

    Raises:
        UserError: if ``value_network`` has no recurrent layer, if an argument is out of its range, if an
            action is not one choice out of several, and from :meth:`make_value_estimator`, which would change
            nothing here.
        KeyError: in a call, if the batch lacks the stored recurrent state, the next observation, or another
            entry.
    """

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
        **kwargs,
    ) -> None:
        if "is_init" not in getattr(value_network, "in_keys", ()):
            raise UserError(
                "value_network has no memory: it does not read 'is_init'; "
                "put an LSTMModule or a GRUModule in it, or use torchrl's DQNLoss"
            )
        for name, value, least in (("n_steps", n_steps, 1), ("burn_in", burn_in, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}={value!r}: expected a whole number of at least {least}")
        given = {"state_source": state_source, "loss_function": loss_function, "reduction": reduction}
        for name, value in given.items():
            if value not in CHOICES[name]:
                raise UserError(f"{name}={value!r}: choose one of {', '.join(map(repr, CHOICES[name]))}")
        super().__init__(
            value_network, double_dqn=double_dqn, loss_function=loss_function, reduction=reduction, **kwargs
        )
        if self.action_space not in ("one_hot", "categorical"):
            raise UserError(f"action_space={self.action_space!r}: expected 'one-hot' or 'categorical'")
        self.register_buffer("gamma", torch.tensor(gamma))
        self.n_steps = n_steps
        self.burn_in = burn_in
        self.value_rescale = value_rescale
        self.state_source = state_source
        keys = value_network.in_keys
        self._states = [key for key in keys if unravel_key(("next", key)) in value_network.out_keys]
        self._observed = [key for key in keys if key not in ("is_init", *self._states)]
        self._split()

    def _split(self) -> None:
        """Find the modules before the memory, and the others up to the values."""
        network = self.value_network
        modules = list(network.module) if isinstance(network, TensorDictSequential) else [network]
        memory = next(k for k, module in enumerate(modules) if "is_init" in module.in_keys)
        if isinstance(modules[-1], QValueModule):
            modules = modules[:-1]  # it chooses an action, and the values are all that is read here
        self._before, self._after = tuple(modules[:memory]), tuple(modules[memory:])
        made = [key for module in self._after for key in module.out_keys]
        wanted = dict.fromkeys(key for module in self._after for key in module.in_keys)
        self._remembered = [key for key in wanted if key not in (*made, *self._states, "is_init")]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return ``"loss"`` for a batch of slices, and write ``"td_error"`` into it."""
        steps = self.steps(tensordict)
        loss = torch.zeros(steps.counts.shape, device=steps.counts.device)
        error = torch.zeros_like(loss)
        if steps.counts.any():
            chosen, target = self._values_and_targets(tensordict.reshape(-1), steps)
            loss, error = loss.to(chosen.dtype), error.to(chosen.dtype)
            loss[steps.counts] = distance_loss(chosen, target, self.loss_function)
            error[steps.counts] = (chosen.detach() - target).square()
        else:
            loss.requires_grad_()  # backward() then does nothing

        shape = tensordict.shape
        tensordict.set(self.tensor_keys.priority, error.reshape(*shape, 1))
        weights = None
        if self.use_prioritized_weights and steps.counts.any():
            weights = tensordict.get(self.tensor_keys.priority_weight, None)
        mask = None if self.reduction == "none" else steps.counts.reshape(shape)
        return TensorDict(loss=self._reduce_loss(loss.reshape(shape), mask=mask, weights=weights))

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams: float) -> None:
        """Refuse: this loss computes its own targets, and the discount given here would be ignored."""
        given = ", ".join(f"{name}={value}" for name, value in hyperparams.items())
        raise UserError(
            f"make_value_estimator({given}) would change nothing: give gamma and n_steps to RecurrentDQNLoss"
        )

    def steps(self, tensordict: TensorDictBase) -> Steps:
        """Find the slices of a batch, and which of their steps warm the state and which count."""
        shape = tensordict.shape
        start = tensordict["is_init"].reshape(shape).clone()
        start[..., 0] = True
        start = start.reshape(-1)
        real = self._real(tensordict)
        start[1:] |= tensordict["next", self.tensor_keys.done].reshape(-1)[:-1] | ~real[:-1]
        start &= real

        if not real.any():
            nowhere = torch.full_like(start, -1, dtype=torch.long)
            return Steps(nowhere, nowhere, warm=real, counts=real)
        place = real.cumsum(0) - 1  # among the real steps
        row = torch.where(real, start.cumsum(0) - 1, -1)
        first = start.nonzero().squeeze(-1)  # [slices]
        column = torch.where(real, place - place[first][row], -1)
        burn_in = self.burn_in * ~self._begins(tensordict.reshape(-1), first)  # [slices]
        enough = row[real].bincount() > burn_in
        burns = real & (column < burn_in[row])
        return Steps(row, column, warm=burns & enough[row], counts=real & ~burns)

    def _real(self, tensordict: TensorDictBase) -> Tensor:
        """Whether each step is data and not padding: ``[N]``."""
        real = torch.ones(tensordict.numel(), dtype=torch.bool, device=tensordict["is_init"].device)
        keys = self._loss_mask_keys()
        if self.loss_mask_key == "auto":
            keys = (*keys, "mask")  # what split_trajectories writes where the collector's keys are not nested
        for key in keys:
            if (mask := tensordict.get(key, None)) is not None:
                real &= mask.reshape(-1)
        return real

    def _begins(self, batch: TensorDictBase, first: Tensor) -> Tensor:
        """Whether each slice, given by the place of its first step, begins an episode: ``[slices]``."""
        count = batch.get(self.tensor_keys.step_count, None)
        if count is not None:
            return count.reshape(-1)[first] == 0
        states = [batch.get(key, None) for key in self._states]
        if not states or any(state is None for state in states):
            return torch.zeros_like(first, dtype=torch.bool)
        return torch.stack([(state[first].flatten(1) == 0).all(-1) for state in states]).all(0)

    def _values_and_targets(self, batch: TensorDictBase, steps: Steps) -> tuple[Tensor, Tensor]:
        """Compute the chosen value and the target of every step that counts, ``[counted]`` each."""
        row, column = steps.row[steps.counts], steps.column[steps.counts]
        start = torch.ones_like(row, dtype=torch.bool)
        start[1:] = row.diff() != 0
        end = start.roll(-1)
        warmed = column[start] > 0  # [slices]
        row = start.cumsum(0) - 1
        column = column - column[start][row]

        # The frames o_0 .. o_T of every slice: its steps, and behind them the last next-observation.
        last = batch["next"].select(*self._observed)[steps.counts][end]
        seen = torch.cat([batch.select(*self._observed)[steps.counts], last])
        place = torch.cat([row, row[end]]), torch.cat([column, column[end] + 1])
        states = self._stored(batch, steps.counts.nonzero().squeeze(-1)[start])
        warm = None
        if steps.warm.any():
            first = steps.warm & (steps.column == 0)
            warm = batch.select(*self._observed)[steps.warm], self._stored(batch, first)
        value = self._values(self.value_network_params, seen, place, states, warm, warmed)
        with torch.no_grad():
            target_value = self._values(self.target_value_network_params, seen, place, states, warm, warmed)
            best = (value if self.double_dqn else target_value).argmax(-1, keepdim=True)
            bootstrap = target_value.gather(-1, best).squeeze(-1)  # [slices, longest + 1]
            reward, terminated = (
                batch["next", key].reshape(-1)[steps.counts]
                for key in (self.tensor_keys.reward, self.tensor_keys.terminated)
            )
            target = self._target(reward, terminated, end, bootstrap[row, column + 1])

        action = batch[self.tensor_keys.action][steps.counts]
        if self.action_space != "categorical":
            action = action.long().argmax(-1)
        return value[row, column].gather(-1, action.reshape(-1, 1)).squeeze(-1), target

    def _stored(self, batch: TensorDictBase, first: Tensor) -> dict[NestedKey, Tensor]:
        """Read the states that slices start from, as ``state_source`` says: ``[slices, layers, hidden]``."""
        states = {}
        for key in self._states:
            if self.state_source == "stored":
                states[key] = batch[key][first]
            elif (state := batch.get(key, None)) is not None:
                states[key] = torch.zeros_like(state[first])
        return states

    def _values(
        self,
        params: TensorDictParams,
        seen: TensorDictBase,
        place: tuple[Tensor, Tensor],
        states: dict[NestedKey, Tensor],
        warm: tuple[TensorDictBase, dict[NestedKey, Tensor]] | None,
        warmed: Tensor,
    ) -> Tensor:
        """Read the frames ``seen`` with one network: ``[slices, longest + 1, actions]``.

        ``place`` has the slice of each frame and its place there. ``warm`` has the frames, slice after slice,
        and the first states of the slices that ``warmed`` ``[slices]`` marks; they warm the state without
        gradient.
        """
        # Keeping the module's state would turn the target's tensors into parameters that want gradients.
        with params.to_module(self.value_network, preserve_module_state=False):
            if warm is not None:
                frames, first = warm
                step = torch.arange(len(frames), device=warmed.device)
                with torch.no_grad():
                    read = self._read(frames, (step // self.burn_in, step % self.burn_in), first)
                states = dict(states)
                for key in self._states:
                    state = read["next", key][:, -1]  # [warm slices, layers, hidden]
                    if key not in states:
                        states[key] = state.new_zeros(len(warmed), *state.shape[1:])
                    states[key] = states[key].to(state.dtype, copy=True)
                    states[key][warmed] = state
            return self._read(seen, place, states)[self.tensor_keys.action_value]

    def _read(
        self, seen: TensorDictBase, place: tuple[Tensor, Tensor], states: dict[NestedKey, Tensor]
    ) -> TensorDictBase:
        """Call the network, one slice in each row: ``[slices, longest]``.

        Rows are filled up with zeros. They come last, so no step that counts ever reads them, and a rectangle
        without resets lets PyTorch run its plain LSTM, which is faster than one over packed sequences. What
        comes before the memory reads every frame by itself, and never sees the filling.
        """
        for module in self._before:
            seen = module(seen)
        row, column = place
        shape = int(row.max()) + 1, int(column.max()) + 1
        sheet = TensorDict(batch_size=shape, device=seen.device)
        for key in self._remembered:
            value = seen[key]
            sheet[key] = value.new_zeros(*shape, *value.shape[1:]).index_put((row, column), value)
        for key, state in states.items():
            sheet[key] = state.unsqueeze(1).expand(-1, shape[1], *state.shape[1:])
        sheet["is_init"] = torch.zeros(*shape, 1, dtype=torch.bool, device=row.device)
        sheet["is_init"][:, 0] = True
        for module in self._after:
            sheet = module(sheet)
        return sheet

    def _target(self, reward: Tensor, terminated: Tensor, end: Tensor, bootstrap: Tensor) -> Tensor:
        """Sum up to ``n_steps`` rewards inside the slice, then bootstrap: ``[counted]``.

        All are ``[counted]``; ``bootstrap`` is the target network's value after each step.
        """
        if self.value_rescale:
            bootstrap = signed_parabolic(bootstrap)
        step = torch.arange(len(reward), device=reward.device)
        target, discount = reward.clone(), torch.full_like(reward, float(self.gamma))
        for _ in range(self.n_steps - 1):
            more = ~end[step]
            step = step + more
            target = torch.where(more, target + discount * reward[step], target)
            discount = torch.where(more, discount * self.gamma, discount)
        target = target + discount * torch.where(terminated[step], 0.0, bootstrap[step])
        return signed_hyperbolic(target) if self.value_rescale else target


def make_loss(cfg: LossConfig, policy: TensorDictSequential, env: EnvBase) -> RecurrentDQNLoss:
    """Build the loss that trains ``policy[:-1]``, the policy without exploration, in ``env`` (chapter 4)."""
    return RecurrentDQNLoss(
        policy[:-1],
        action_space=env.action_spec_unbatched,
        gamma=cfg.gamma,
        n_steps=cfg.n_steps,
        double_dqn=cfg.double_dqn,
        burn_in=cfg.burn_in,
        value_rescale=cfg.value_rescale,
    )
