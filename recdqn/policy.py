"""A policy that remembers (chapter 2): features, a recurrent layer, Q-values, exploration."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs import TransformedEnv
from torchrl.modules import MLP, ConvNet, EGreedyModule, GRUModule, LSTMModule, QValueModule

from recdqn.config import PolicyConfig, UserError

SQUARE = 4  # pixels: height and width of what becomes one place with 16 channels


class Eyes(nn.Module):
    """Turn pictures into features: convolutions, one layer, and its output normalised (chapter 2).

    Pictures are ``[..., 1, size, size]``, uint8; features ``[..., features]``, float32. First, squares of
    4 x 4 pixels become channels. After that, a 2x2 convolution of stride 1 does what an 8x8 one of stride 4
    does without, and processors are quicker at it.

    Args:
        cfg: the sizes. ``bfloat16`` speeds up the convolutions where the processor has instructions for it;
            their results then have 8 significant bits. Elsewhere they run in float32.

    Raises:
        UserError: in a call, if the picture cannot be cut into such squares.
    """

    def __init__(self, cfg: PolicyConfig) -> None:
        super().__init__()
        self.contrast = cfg.contrast
        self.dtype = torch.bfloat16 if cfg.bfloat16 and has_bfloat16() else torch.float32
        self.convolutions = ConvNet(
            in_features=SQUARE**2,
            num_cells=list(cfg.channels),
            kernel_sizes=list(cfg.kernels),
            strides=list(cfg.strides),
            activation_class=nn.ReLU,
            activation_kwargs={"inplace": True},
        )
        self.features = nn.LazyLinear(cfg.features)
        self.normalise = nn.LayerNorm(cfg.features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Look at pictures of any batch size."""
        ink = fold(pixels.reshape(-1, *pixels.shape[-2:])).to(self.dtype).mul_(self.contrast / 255)
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            seen = self.features(self.convolutions(ink))
        return self.normalise(seen.float()).relu().reshape(*pixels.shape[:-3], -1)


def fold(pixels: Tensor) -> Tensor:
    """Turn pictures ``[N, height, width]`` into ink, 255 where black, ``[N, 16, height / 4, width / 4]``."""
    _, height, width = pixels.shape
    if height % SQUARE or width % SQUARE:
        raise UserError(f"a picture of {height}x{width} pixels: expected multiples of {SQUARE}")
    # Four bytes move as one number, which is five times as fast as moving each.
    rows = (255 - pixels).view(torch.int32).unflatten(1, (-1, SQUARE))  # [N, height / 4, 4, width / 4]
    return rows.transpose(2, 3).contiguous().view(torch.uint8).movedim(-1, 1)


def has_bfloat16() -> bool:
    """Whether this machine's processor computes in bfloat16 by itself."""
    return torch.cpu.get_capabilities().get("avx512_bf16", False)


def make_policy(cfg: PolicyConfig, env: TransformedEnv) -> TensorDictSequential:
    """Build the policy for ``env``, fill its lazy parameters, and add its primer to ``env``.

    The modules are, in order:

    - features to ``"embed"`` (``[..., features]``): :class:`Eyes` for ``"pixels"``, one layer for
      ``"observation"``;
    - ``LSTMModule`` or ``GRUModule`` to ``"memory"`` (``[..., hidden_size]``), with a state of
      ``[..., 1, hidden_size]``;
    - ``MLP`` to ``"action_value"`` (``[..., actions]``), which starts near ``initial_value``;
    - ``QValueModule`` to ``"action"``, as the action spec writes it, and ``"chosen_action_value"``;
    - ``EGreedyModule``, which acts unless the exploration type is deterministic. Its ``step(frames)`` lowers
      the share of random actions; nothing else does.

    ``policy[:-1]`` is the value network that the loss trains; it shares its parameters with the policy. A
    recurrent layer between features and values follows :cite:t:`hausknecht2015deep`.

    The primer puts the recurrent state into every reset of ``env``. Without it the policy runs, and forgets.

    Args:
        cfg: cell, sizes, first values and exploration.
        env: an environment from :func:`recdqn.envs.make_env`. It changes: a ``TensorDictPrimer`` is appended.

    Returns:
        The policy, on the CPU. It also fits environments of another batch size that have the primer.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> env = make_env(cfg.env)
        >>> policy = make_policy(cfg.policy, env)
        >>> env.rollout(3, policy)["action_value"].shape
        torch.Size([8, 3, 2])
    """
    spec = env.action_spec_unbatched
    if "pixels" in env.observation_spec.keys():
        network = Eyes(cfg)
        features = TensorDictModule(network, in_keys=["pixels"], out_keys=["embed"])
    else:
        network = MLP(
            out_features=cfg.features, num_cells=[], activation_class=nn.Tanh, activate_last_layer=True
        )
        features = TensorDictModule(network, in_keys=["observation"], out_keys=["embed"])
    with torch.no_grad():
        width = features(env.fake_tensordict())["embed"].shape[-1]

    cell = {"lstm": LSTMModule, "gru": GRUModule}[cfg.cell]
    memory = cell(input_size=width, hidden_size=cfg.hidden_size, in_key="embed", out_key="memory")
    env.append_transform(memory.make_tensordict_primer())

    head = MLP(cfg.hidden_size, spec.shape[-1], num_cells=[cfg.head], activation_class=nn.ReLU)
    nn.init.constant_(head[-1].bias, cfg.initial_value)
    return TensorDictSequential(
        features,
        memory,
        TensorDictModule(head, in_keys=["memory"], out_keys=["action_value"]),
        QValueModule(spec=spec),
        EGreedyModule(spec, eps_init=cfg.eps_start, eps_end=cfg.eps_end, annealing_num_steps=cfg.eps_frames),
    )
