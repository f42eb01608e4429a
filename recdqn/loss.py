"""The recurrent Q-learning loss (chapter 4)."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor
from torchrl.objectives import DQNLoss, ValueEstimators, distance_loss

from recdqn.config import UserError


class RecurrentDQNLoss(DQNLoss):
    r"""Q-learning on slices of episodes, without memory leaking from one slice into another (chapter 4).

    A slice has observations :math:`o_0, \dots, o_T` and a stored recurrent state :math:`s_0`. The online and
    the target network each read all of them once, from :math:`s_0`, each carrying a state of its own. The
    target of step :math:`t` is

    .. math::

        y_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k}
              + \gamma^m (1 - d_{t+m-1})\, Q_{\text{target}}(o_{0..t+m}, a^*),

    where :math:`m` is ``n_steps``, or less where the slice ends first; :math:`d` is "terminated" (a time
    limit does not stop the bootstrap); and :math:`a^*` is the best action after :math:`o_{0..t+m}` of the
    online network (``double_dqn``) or of the target network. The loss is the mean over all steps of the
    distance between :math:`Q(o_{0..t}, a_t)` and :math:`y_t`.

    The recurrence and the stored state follow :cite:t:`kapturowski2019recurrent`, the double estimator
    :cite:t:`vanhasselt2016deep`.

    Args:
        value_network: the policy without exploration, such as ``make_policy(...)[:-1]``; it must read
            ``"is_init"``.

    Keyword Args:
        gamma: discount per environment step.
        n_steps: rewards summed before the bootstrap, in environment steps.
        double_dqn: whether the online network picks the action.
        kwargs: everything else that :class:`torchrl.objectives.DQNLoss` takes.

    The input is the flat batch ``[N]`` of :class:`torchrl.data.SliceSampler`, or ``[B, T]``. Every true
    ``"is_init"``, every row, and every step after a done one starts a slice from the state stored there.
    ``"td_error"`` (the squared error of each step, ``[..., 1]``) is written into the input, for priorities.

    Raises:
        UserError: if ``value_network`` has no recurrent layer, if ``n_steps`` is below 1, if an action is not
            one choice out of several, and from :meth:`make_value_estimator`, which would change nothing here.
        KeyError: in a call, if the batch lacks the stored recurrent state, the next observation, or another
            entry.
    """

    def __init__(
        self,
        value_network: TensorDictModule,
        *,
        gamma: float = 0.99,
        n_steps: int = 1,
        double_dqn: bool = True,
        **kwargs,
    ) -> None:
        if "is_init" not in getattr(value_network, "in_keys", ()):
            raise UserError(
                "value_network has no memory: it does not read 'is_init'; "
                "put an LSTMModule or a GRUModule in it, or use torchrl's DQNLoss"
            )
        if not isinstance(n_steps, int) or n_steps < 1:
            raise UserError(f"n_steps={n_steps!r}: expected a whole number of at least 1")
        super().__init__(value_network, double_dqn=double_dqn, **kwargs)
        if self.action_space not in ("one_hot", "categorical"):
            raise UserError(f"action_space={self.action_space!r}: expected 'one-hot' or 'categorical'")
        self.register_buffer("gamma", torch.tensor(gamma))
        self.n_steps = n_steps

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return ``"loss"`` for a batch of slices, and write ``"td_error"`` into it."""
        batch = tensordict.reshape(-1)  # [N]
        start, end = self._edges(tensordict)
        row = start.cumsum(0) - 1  # the slice that a step belongs to, [N]
        column = (
            torch.arange(len(row), device=row.device) - start.nonzero().squeeze(-1)[row]
        )  # its place there
        sequence = self._rectangle(batch, end, row, column)  # [slices, longest + 1]

        # Keeping the module's state would turn the target's tensors into parameters that want gradients.
        swap = {"module": self.value_network, "preserve_module_state": False}
        with self.value_network_params.to_module(**swap):
            value = self.value_network(sequence.copy())[self.tensor_keys.action_value]
        with torch.no_grad(), self.target_value_network_params.to_module(**swap):
            target_value = self.value_network(sequence.copy())[self.tensor_keys.action_value]
        best = (value if self.double_dqn else target_value).argmax(-1, keepdim=True)
        bootstrap = target_value.gather(-1, best).squeeze(-1)  # [slices, longest + 1]

        action = batch[self.tensor_keys.action]
        if self.action_space != "categorical":
            action = action.long().argmax(-1)
        chosen = value[row, column].gather(-1, action.reshape(-1, 1)).squeeze(-1)  # [N]
        target = self._target(batch, end, bootstrap[row, column + 1])

        error = (chosen.detach() - target).square()
        tensordict.set(self.tensor_keys.priority, error.reshape(*tensordict.shape, 1))
        loss = distance_loss(chosen, target, self.loss_function).reshape(tensordict.shape)
        weights = None
        if self.use_prioritized_weights:
            weights = tensordict.get(self.tensor_keys.priority_weight, None)
        return TensorDict(loss=self._reduce_loss(loss, tensordict=tensordict, weights=weights))

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams: float) -> None:
        """Refuse: this loss computes its own targets, and the discount given here would be ignored."""
        given = ", ".join(f"{name}={value}" for name, value in hyperparams.items())
        raise UserError(
            f"make_value_estimator({given}) would change nothing: give gamma and n_steps to RecurrentDQNLoss"
        )

    def _edges(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Mark the first and the last step of every slice, each ``[N]``."""
        start = tensordict["is_init"].reshape(tensordict.shape).clone()
        start[..., 0] = True
        start = start.reshape(-1)
        done = tensordict["next", self.tensor_keys.done].reshape(-1)
        start[1:] |= done[:-1]
        end = torch.ones_like(start)
        end[:-1] = start[1:]
        return start, end

    def _rectangle(self, batch: TensorDictBase, end: Tensor, row: Tensor, column: Tensor) -> TensorDictBase:
        """Lay one slice in each row, its last next-observation behind it: ``[slices, longest + 1]``.

        Rows are filled up with zeros. They come last, so no step that counts ever reads them, and a rectangle
        without resets lets PyTorch run its plain LSTM, which is faster than one over packed sequences.
        """
        keys = self.value_network.in_keys
        last = batch[end].select(*keys)
        states = [key for key in keys if unravel_key(("next", key)) in self.value_network.out_keys]
        last.update(batch[end]["next"].select(*(key for key in keys if key not in ("is_init", *states))))
        sequence = batch[:1].select(*keys).new_zeros(len(last), int(column.max()) + 2)
        sequence[row, column] = batch.select(*keys)
        sequence[row[end], column[end] + 1] = last
        sequence["is_init"] = torch.zeros_like(sequence["is_init"])
        sequence["is_init"][:, 0] = True
        return sequence

    def _target(self, batch: TensorDictBase, end: Tensor, bootstrap: Tensor) -> Tensor:
        """Sum up to ``n_steps`` rewards inside the slice, then bootstrap: ``[N]``.

        ``bootstrap`` ``[N]`` is the target network's value after each step.
        """
        reward = batch["next", self.tensor_keys.reward].reshape(-1)
        terminated = batch["next", self.tensor_keys.terminated].reshape(-1)
        step = torch.arange(len(reward), device=reward.device)
        target, discount = reward.clone(), torch.full_like(reward, float(self.gamma))
        for _ in range(self.n_steps - 1):
            more = ~end[step]
            step = step + more
            target = torch.where(more, target + discount * reward[step], target)
            discount = torch.where(more, discount * self.gamma, discount)
        return target + discount * torch.where(terminated[step], 0.0, bootstrap[step])
