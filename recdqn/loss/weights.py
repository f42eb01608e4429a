"""Run a network with other weights than its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_not
from typing import Any

from tensordict import TensorDictParams
from torch import nn


class Weights:
    """The tensors of ``params``, in a form that takes little time to put into a network.

    ``params.to_module(network)`` looks up every module and every tensor by name in each call. Here the lookup
    is kept for as long as ``params`` holds the same tensors; their values may change. A copy of this object
    looks them up again.

    Args:
        network: ``params`` is ``TensorDict.from_module`` of it, or of a copy.
    """

    # torch 2.15 and tensordict 0.14.3 have no public names for where a module holds its tensors.

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._known: list[Any] = []  # what _others was made for
        self._others: list[tuple[dict[str, Any], dict[str, Any]]] = []  # attributes of a module, other values

    def __getstate__(self) -> dict[str, Any]:
        return {"_network": self._network, "_known": [], "_others": []}

    @contextmanager
    def lent(self, params: TensorDictParams) -> Iterator[None]:
        """Within the context, the network has the tensors of ``params``."""
        parts = vars(params)
        known = [parts["_param_td"], *parts["_parameters"].values(), *parts["_buffers"].values()]
        if len(known) != len(self._known) or any(map(is_not, known, self._known)):
            self._known, self._others = known, self._look_up(params)
        try:
            self._swap()
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for attributes, others in self._others:
            for name in others:
                attributes[name], others[name] = others[name], attributes[name]

    def _look_up(self, params: TensorDictParams) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the attributes of each module that has tensors, and other values for them."""
        others = []
        for module in self._network.modules():
            attributes = vars(module)
            # A recurrent layer keeps two lists of its weights, and makes new ones if they are not its own.
            names = ("_flat_weights", "_flat_weight_refs")
            lists = {name: attributes[name] for name in names if name in attributes}
            if attributes["_parameters"] or attributes["_buffers"]:
                tensors = {name: dict(attributes[name]) for name in ("_parameters", "_buffers")}
                others.append((module, tensors | lists))
        # With preserve_module_state, the target's tensors would become parameters that require gradients.
        with params.to_module(self._network, preserve_module_state=False):
            for module, values in others:
                for holder in ("_parameters", "_buffers"):
                    values[holder] = {name: getattr(module, name) for name in values[holder]}
        return [(vars(module), values) for module, values in others]
