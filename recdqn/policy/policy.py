"""The recurrent policy: features, a recurrent layer, Q-values, exploration."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import TransformedEnv
from torchrl.modules import MLP, EGreedyModule, GRUModule, LSTMModule, QValueModule

from recdqn.config import PolicyConfig
from recdqn.envs.entries import MASK
from recdqn.policy.dueling import Dueling
from recdqn.policy.encoders import ENCODERS, SideBySide
from recdqn.policy.previous import WithPrevious
from recdqn.policy.span import remember
from recdqn.precision import float32


@float32()
def make_policy(cfg: PolicyConfig, env: TransformedEnv) -> TensorDictSequential:
    """Build the policy for ``env`` and initialise its lazy parameters.

    The modules are, in order:

    - features to ``"embed"`` (``[..., features]``): :class:`recdqn.policy.encoders.PixelEncoder` for
      ``"pixels"``, one layer for ``"observation"``, :class:`recdqn.policy.encoders.CodeEncoder` for
      ``"codes"``, side by side if there are several; with ``"previous"`` appended if the environment shows it
      (:class:`recdqn.policy.previous.WithPrevious`);
    - ``LSTMModule`` or ``GRUModule`` to ``"memory"`` (``[..., hidden_size]``), with a state of
      ``[..., 1, hidden_size]``; with ``cell="none"`` there is none, and the next module reads ``"embed"``;
    - ``MLP``, or :class:`recdqn.policy.dueling.Dueling`, to ``"action_value"`` (``[..., actions]``), with
      initial values near ``initial_value``;
    - ``QValueModule`` to ``"action"``, in the format of the action spec, and ``"chosen_action_value"``;
      where the environment shows an ``"action_mask"``, it and the next module choose among legal actions;
    - ``EGreedyModule``, which is active where the exploration type is random, TorchRL's default. A call does
      not lower epsilon: its ``step(frames)`` does, and in training the loop.

    ``policy[:-1]`` is the value network that the loss trains; it shares its parameters with the policy. A
    recurrent layer between features and values follows :cite:t:`hausknecht2015deep`.

    Args:
        cfg: cell, sizes, initial values and exploration.
        env: an environment from :func:`recdqn.envs.make_env`; only its specs are read. Before the policy acts
            in it, or in one of another batch size, call :func:`recdqn.envs.add_primers`.

    Returns:
        The policy, on the CPU.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> env = make_env(cfg.env)
        >>> policy = make_policy(cfg.policy, env)
        >>> add_primers(env, policy).rollout(3, policy)["action_value"].shape
        torch.Size([32, 3, 2])
    """
    spec, shown = env.action_spec_unbatched, env.observation_spec.keys()
    keys = [key for key in ENCODERS if key in shown]
    parts = [ENCODERS[key](cfg, env.observation_spec[key]) for key in keys]
    network = parts[0] if len(parts) == 1 else SideBySide(parts)
    if "previous" in shown:
        network, keys = WithPrevious(network, spec.shape[-1]), [*keys, "previous"]
    features = TensorDictModule(network, in_keys=keys, out_keys=["embed"])
    with torch.no_grad():
        width = features(env.fake_tensordict())["embed"].shape[-1]

    memory, key = [], "embed"
    if cfg.cell != "none":
        cell = {"lstm": LSTMModule, "gru": GRUModule}[cfg.cell]
        layer = cell(input_size=width, hidden_size=cfg.hidden_size, in_key=key, out_key="memory")
        if cfg.memory_span:
            remember(getattr(layer, cfg.cell), cfg.memory_span)
        memory = [layer]
        width, key = cfg.hidden_size, "memory"

    head: MLP | Dueling
    if cfg.dueling:
        head = Dueling(width, spec.shape[-1], cfg.head, cfg.initial_value)
    else:
        head = MLP(width, spec.shape[-1], num_cells=[cfg.head], activation_class=nn.ReLU)
        nn.init.constant_(head[-1].bias, cfg.initial_value)
    mask = MASK if MASK in shown else None
    return TensorDictSequential(
        features,
        *memory,
        TensorDictModule(head, in_keys=[key], out_keys=["action_value"]),
        QValueModule(spec=spec, action_mask_key=mask),
        EGreedyModule(
            spec,
            eps_init=cfg.eps_start,
            eps_end=cfg.eps_end,
            annealing_num_steps=cfg.eps_frames,
            action_mask_key=mask,
        ),
    )
