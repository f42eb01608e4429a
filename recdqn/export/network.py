"""One step of a policy on plain tensors, as an exported file computes it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from recdqn.agent import ILLEGAL
from recdqn.config import EnvConfig
from recdqn.envs import declared_spaces
from recdqn.envs.actions import sizes
from recdqn.envs.entries import KEYS, MASK, leaves
from recdqn.export.entries import raw_entries
from recdqn.export.inputs import described, random_inputs
from recdqn.policy.encoders import PATCH, PixelEncoder
from recdqn.policy.modules import recurrent_cell
from recdqn.policy.plain import chain, step
from recdqn.policy.previous import WithPrevious


class Step(nn.Module):
    """One step of a policy on plain tensors, with the inputs and outputs of :func:`recdqn.export_agent`.

    Args:
        policy: from :func:`recdqn.policy.make_policy`, or a chain of modules of the same kinds.
        cfg: the environment it was trained in.

    Attributes:
        inputs, outputs: name, type and shape of each, and the range of some; the batch is not part of a
            shape.
    """

    visible: Tensor
    scale: Tensor
    loc: Tensor

    def __init__(self, policy: TensorDictModuleBase, cfg: EnvConfig) -> None:
        super().__init__()
        modules = chain(copy.deepcopy(policy))
        observations, actions = declared_spaces(cfg)
        self.choices = sizes(actions) or []
        count = math.prod(self.choices)
        self.first_action = int(actions.start) if isinstance(actions, Discrete) else 0
        self.stack, self.reward_scale = cfg.stack, cfg.reward_scale
        self.previous = isinstance(getattr(modules[0], "module", None), WithPrevious)
        self.masked = cfg.mask != "none"
        self.entries = raw_entries(cfg, observations, count)
        self.readers = nn.ModuleList([entry.read for entry in self.entries])
        self.keys = [key for key in KEYS if key in {entry.key for entry in self.entries}]
        self.chain = nn.ModuleList([_exportable(module) for module in modules])
        visible = torch.tensor(cfg.visible) if cfg.observation == "masked" else torch.zeros(0).long()
        self.hides = bool(len(visible))
        self.register_buffer("visible", visible)
        self.register_buffer("scale", torch.tensor(cfg.scale))
        self.register_buffer("loc", torch.tensor(cfg.loc))

        cells = [cell for module in modules if (cell := recurrent_cell(module)) is not None]
        states = {
            name + (f"_{k}" if len(cells) > 1 else ""): [cell.num_layers, cell.hidden_size]
            for k, cell in enumerate(cells)
            for name in ("hc" if isinstance(cell, nn.LSTM) else "h")
        }
        states |= {"previous_action": [count]} if self.previous else {}
        mask: Any = dict(leaves(observations)).get(cfg.mask) if cfg.observation != "pixels" else None
        named = [("is_init", "bool", [1])]
        named += [(name, "float32", shape) for name, shape in states.items()]
        named += [("reward", "float32", [1])] if self.previous else []
        named += [(MASK, "bool" if mask is None else mask.dtype.name, [count])] if self.masked else []
        self.inputs: list[dict[str, Any]] = [described(entry.name, entry.space) for entry in self.entries]
        self.inputs += [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in named]
        self.outputs: list[dict[str, Any]] = [
            {"name": "action_value", "dtype": "float32", "shape": [count]},
            {"name": "action", "dtype": "int64", "shape": []},
            *({"name": f"{name}_next", "dtype": "float32", "shape": shape} for name, shape in states.items()),
        ]
        self.states = list(states)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return Q-values, actions and the states after the step, from all :attr:`inputs` in their order."""
        given = {one["name"]: value for one, value in zip(self.inputs, inputs, strict=True)}
        keep = 1.0 - given["is_init"].float()  # [batch, 1]
        seen, states = self.read(given), [given[name] for name in self.states]
        if self.previous:
            action, reward = states.pop() * keep, given["reward"] * self.reward_scale
            seen.append(torch.cat([action, reward * action.sum(-1, keepdim=True)], -1))
        outputs, after = step(self.chain, seen, [part * keep.unsqueeze(-1) for part in states])
        values = outputs[-1]
        if self.masked:
            legal = given[MASK].bool()
            values = torch.where(legal | ~legal.any(-1, keepdim=True), values, ILLEGAL)
        best = values.argmax(-1)
        if self.previous:
            after.append(nn.functional.one_hot(best, values.shape[-1]).float())
        return values, best + self.first_action, *after

    def read(self, given: dict[str, Tensor]) -> list[Tensor]:
        """Return what the encoders read of the entries of an observation."""
        parts: dict[str, list[Tensor]] = {key: [] for key in self.keys}
        for entry, reader in zip(self.entries, self.readers, strict=True):
            parts[entry.key].append(reader(given[entry.name]))
        seen = {key: torch.cat(each, 1) if len(each) > 1 else each[0] for key, each in parts.items()}
        if "observation" in seen:
            value = seen["observation"]
            value = value.unflatten(1, (self.stack, -1)) if self.stack > 1 else value
            value = value.index_select(-1, self.visible) if self.hides else value
            seen["observation"] = (value * self.scale + self.loc).flatten(1)
        return list(seen.values())

    def examples(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Return random inputs of a batch."""
        return random_inputs(self.inputs, batch, np.random.default_rng(seed))


class GreyPictures(nn.Module):
    """Compute :class:`~recdqn.policy.encoders.PixelEncoder` with operations that ONNX has, in float32."""

    def __init__(self, encoder: PixelEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures ``[batch, pictures, size, size]``, uint8."""
        patches = nn.functional.pixel_unshuffle(255.0 - pixels.float(), PATCH)
        outputs = self.encoder.convolutions(patches * (self.encoder.contrast / 255))
        features: Tensor = self.encoder.normalise(self.encoder.features(outputs)).relu()
        return features


def _exportable(module: Any) -> Any:
    """Replace the encoders of pictures in a module of a chain."""
    if recurrent_cell(module) is not None:
        return module
    return TensorDictModule(_replaced(module.module), module.in_keys, module.out_keys)


def _replaced(network: nn.Module) -> nn.Module:
    if isinstance(network, PixelEncoder):
        return GreyPictures(network)
    for name, child in network.named_children():
        setattr(network, name, _replaced(child))
    return network
