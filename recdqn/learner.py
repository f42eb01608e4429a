"""The learner: everything that a gradient step changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.objectives import DQNLoss, SoftUpdate

from recdqn.config import Config, LossConfig
from recdqn.errors import NotFinite
from recdqn.loss import make_loss
from recdqn.policy import ladder, make_policy
from recdqn.weights import one_vector


class Learner:
    """Networks, optimiser, target network and running average.

    On the CPU the weights of each network are views of one vector (:func:`recdqn.weights.one_vector`). Load
    states into the networks as usual, but do not move them to another device.

    Args:
        cfg: the whole configuration.
        env: an environment from :func:`recdqn.make_env`, for its specs.
        build_loss: makes the loss from ``cfg.loss``, the policy and ``env``.

    Attributes:
        policy: the policy that explores; it shares its weights with ``loss``.
        loss: the :class:`recdqn.RecurrentDQNLoss`, with the online and the target network.
        optimiser: Adam over the online network.
        average: a running average of the policy's weights; ``average.module`` is the policy to evaluate.

    Example:
        >>> learner = Learner(cfg, make_env(cfg.env))
        >>> for batch in batches:
        ...     loss, grad_norm = learner.update(batch)
    """

    def __init__(
        self,
        cfg: Config,
        env: TransformedEnv,
        build_loss: Callable[[LossConfig, TensorDictSequential, EnvBase], DQNLoss] = make_loss,
    ) -> None:
        self.cfg = cfg
        self.policy = make_policy(cfg.policy, env).to(cfg.device)
        self.loss = build_loss(cfg.loss, self.policy, env)
        SoftUpdate(self.loss, tau=cfg.loss.tau)  # the target network begins with the online weights
        self.average = AveragedModel(self.policy)
        keys = {id(p): key for key, p in self.loss.value_network_params.items(True, True)}
        online = list(self.policy.parameters())
        self._online = one_vector(online)
        self._target = one_vector([self.loss.target_value_network_params.get(keys[id(p)]) for p in online])
        self._average = one_vector(list(self.average.module.parameters()))
        # Such as epsilon; looking them up takes longer than copying them.
        self._buffers = list(zip(self.average.module.buffers(), self.policy.buffers(), strict=True))
        if cfg.scale.ladder and not cfg.scale.actors:  # after the average, which does not explore
            shares = ladder(cfg.env.num_envs).to(cfg.device)
            self.policy[-1].eps = shares if len(shares) > 1 else shares[0]
        for parameter in online:
            parameter.grad = torch.zeros_like(parameter)
        self._gradient = one_vector([cast(Tensor, parameter.grad) for parameter in online])
        for weights, gradient in zip(self._online, self._gradient, strict=True):
            weights.grad = gradient
        self.optimiser = torch.optim.Adam(self._online, lr=cfg.train.learning_rate, fused=True)

    def update(self, batch: TensorDictBase) -> tuple[float, float]:
        """Make one gradient step on a batch of slices, and move target network and average.

        Args:
            batch: from the replay buffer, on ``cfg.device``; ``"td_error"`` is written into it.

        Returns:
            The loss and the norm of its gradient before clipping.

        Raises:
            NotFinite: if either is not finite; the weights are then unchanged.
        """
        loss = self.loss(batch)["loss"]
        loss.backward()
        norm = torch.nn.utils.get_total_norm(self._gradient)
        result = loss.item(), norm.item()
        if not math.isfinite(sum(result)):
            message = self._not_finite(batch, *result)
            torch._foreach_zero_(self._gradient)  # the next batch may be finite
            raise NotFinite(message, batch)
        torch.nn.utils.clip_grads_with_norm_(self._online, self.cfg.train.max_grad_norm, norm)
        self.optimiser.step()
        torch._foreach_zero_(self._gradient)
        self._follow()
        return result

    @torch.no_grad()
    def _follow(self) -> None:
        """Move target network and average towards the online network; the average begins as a copy of it."""
        every = self.cfg.loss.target_every
        if not every:
            torch._foreach_lerp_(self._target, self._online, self.cfg.loss.tau)
        elif (int(self.average.n_averaged) + 1) % every == 0:
            torch._foreach_copy_(self._target, self._online)
        share = 1.0 - self.cfg.train.average if self.average.n_averaged else 1.0
        torch._foreach_lerp_(self._average, self._online, share)
        for averaged, own in self._buffers:
            averaged.copy_(own)
        self.average.n_averaged += 1

    def anneal(self, frames: int) -> None:
        """Set the learning rate for ``frames`` environment steps done: a straight line over the whole run."""
        cfg = self.cfg.train
        done = min(frames / cfg.total_frames, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = cfg.learning_rate + done * (cfg.final_learning_rate - cfg.learning_rate)

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint saves, by name: objects with ``state_dict`` and ``load_state_dict``."""
        return {
            "policy": self.policy,
            "loss": self.loss,
            "average": self.average,
            "optim": self.optimiser,
        }

    def _not_finite(self, batch: TensorDictBase, loss: float, norm: float) -> str:
        """Name the first value that is not finite, in the order in which they are computed."""
        for key, value in batch.exclude("td_error").items(include_nested=True, leaves_only=True):
            if value.is_floating_point() and not value.isfinite().all():
                return f"{key!r} in a batch is not finite"
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        for name, parameter in self.loss.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"the gradient of {name} is not finite"
        return f"the norm of the gradient is {norm}"
