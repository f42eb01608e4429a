"""Run a recurrent network over slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase, TensorDictParams, unravel_key
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.modules import QValueModule

from recdqn.loss.slices import rectangle

States = dict[NestedKey, Tensor]  # by key, [slices, layers, hidden] each


@dataclass(frozen=True)
class Sequences:
    """Observations of ``S`` slices, slice after slice.

    Attributes:
        frames: the observations, ``[N]``.
        row, column: the slice and the position of each in the result, ``[N]``.
        states: the state at the start of each slice, or after its burn-in if that is missing here.
    """

    frames: TensorDictBase
    row: Tensor
    column: Tensor
    states: States


@dataclass(frozen=True)
class Prefix:
    """Burn-in observations, which only update the state, slice after slice.

    Attributes:
        frames: ``steps`` observations of each slice that has burn-in.
        steps: number of burn-in steps of such a slice.
        states: the states that these slices start from.
        burned_in: which of all slices these are, ``[S]``.
    """

    frames: TensorDictBase
    steps: int
    states: States
    burned_in: Tensor


class Unroll:
    """Split a network at the recurrent layer, and run it over slices.

    Args:
        network: its recurrent layer reads ``"is_init"``. It may have none: then only the last module sees the
            slices as rows.

    Attributes:
        state_keys: keys of the recurrent states.
        observation_keys: keys of the observations.
    """

    def __init__(self, network: TensorDictModule) -> None:
        keys = network.in_keys
        self.state_keys = [key for key in keys if unravel_key(("next", key)) in network.out_keys]
        self.observation_keys = [key for key in keys if key not in ("is_init", *self.state_keys)]
        self._network = network
        modules = list(network.module) if isinstance(network, TensorDictSequential) else [network]
        if isinstance(modules[-1], QValueModule):
            modules = modules[:-1]  # only the values are read
        recurrent = (k for k, module in enumerate(modules) if "is_init" in module.in_keys)
        first = next(recurrent, len(modules) - 1)
        self._encoder, self._recurrent = modules[:first], modules[first:]
        self._feature_keys: list[NestedKey] = []
        known = {"is_init", *self.state_keys}
        for module in self._recurrent:
            self._feature_keys += [key for key in module.in_keys if key not in known]
            known.update(module.in_keys, module.out_keys)  # a key may be read before it is written

    def __call__(
        self, params: TensorDictParams, sequences: Sequences, burn_in: Prefix | None
    ) -> TensorDictBase:
        """Return the output of the network with parameters ``params``: ``[S, T]``.

        Every frame is read once, those of ``burn_in`` without gradient.
        """
        # With preserve_module_state, the target's tensors would become parameters that require gradients.
        with params.to_module(self._network, preserve_module_state=False):
            states = sequences.states
            if burn_in is not None:
                states = self._after_burn_in(states, burn_in)
            return self._read(sequences.frames, sequences.row, sequences.column, states)

    @torch.no_grad()
    def _after_burn_in(self, states: States, burn_in: Prefix) -> States:
        """Replace the states of slices that have burn-in by those after it."""
        step = torch.arange(len(burn_in.frames), device=burn_in.burned_in.device)
        read = self._read(burn_in.frames, step // burn_in.steps, step % burn_in.steps, burn_in.states)
        states = dict(states)
        for key in self.state_keys:
            state = read["next", key][:, -1]  # [slices with burn-in, layers, hidden]
            if key not in states:
                states[key] = state.new_zeros(len(burn_in.burned_in), *state.shape[1:])
            states[key] = states[key].to(state.dtype, copy=True)
            states[key][burn_in.burned_in] = state
        return states

    def _read(self, frames: TensorDictBase, row: Tensor, column: Tensor, states: States) -> TensorDictBase:
        """Call the network on slices, one in each row: ``[S, T]``.

        The encoder reads the flat frames, so that it does not compute on padding.
        """
        for module in self._encoder:
            frames = module(frames)
        rows = rectangle(frames.select(*self._feature_keys), row, column, states)
        for module in self._recurrent:
            rows = module(rows)
        return rows
