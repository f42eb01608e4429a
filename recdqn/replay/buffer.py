"""Replay buffer and collector (chapter 5)."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer


class SliceReplayBuffer(TensorDictReplayBuffer):
    """A ``TensorDictReplayBuffer`` that is saved and loaded to the step, for slices (chapter 5).

    TorchRL 0.14.1 saves rows that were never written as well, loads into temporary files of its own, and
    leaves the sampler not knowing where the newest row lies.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return what is stored, as plain tensors, and where the writer stands."""
        rows = self.storage[:].flatten_keys(".").to_dict() if len(self.storage) else {}
        return {
            # cloned out of the files: torch.save would save all of a tensor that is cut short
            "rows": {key: value.as_subclass(Tensor).clone() for key, value in rows.items()},
            "writer": self.writer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold what was stored, and nothing else."""
        self.empty()
        rows = state_dict["rows"]
        if rows:
            shape = rows["action"].shape[: self.storage.ndim]
            stored = TensorDict(rows, shape).unflatten_keys(".")
            self.storage.set(torch.arange(shape[0]), stored)
            self.writer.load_state_dict(state_dict["writer"])
            self.sampler.extend(torch.tensor([self._newest]))

    @property
    def _newest(self) -> int:
        """The row that was written last."""
        return (self.writer._cursor - 1) % self.storage.shape[0]
