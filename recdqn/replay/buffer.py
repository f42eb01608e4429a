"""A replay buffer that is saved and restored exactly."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer

from recdqn.replay.prioritized import PrioritySliceSampler


class SliceReplayBuffer(TensorDictReplayBuffer):
    """A ``TensorDictReplayBuffer`` that continues exactly after ``load_state_dict``.

    TorchRL 0.14.1 also saves rows that were never written, loads into temporary files of its own, and does
    not tell the sampler which row is the newest. It also takes more time to put a batch together, and to pass
    errors on.
    """

    def sample(
        self, batch_size: int | None = None, return_info: bool = False
    ) -> TensorDictBase | tuple[TensorDictBase, dict[str, Any]]:
        """Draw a batch of slices ``[steps]``, with the sampler's flags and ``"index"``."""
        if self._prefetch:
            return super().sample(batch_size, return_info)
        index, info = self.sampler.sample(self.storage, batch_size or self.batch_size)
        batch = self.transform(self.storage.get(index))
        info["index"] = index
        for key, value in info.items():
            batch.set(key, torch.stack(value, -1) if isinstance(value, tuple) else value)
        return (batch, info) if return_info else batch

    def update_tensordict_priority(self, data: TensorDictBase) -> None:
        """Give the sampler the squared errors of a batch, ``"td_error"``, if it draws by priority."""
        if isinstance(self.sampler, PrioritySliceSampler):
            self.sampler.update_priority(data["index"], data[self.priority_key], storage=self.storage)
        else:
            super().update_tensordict_priority(data)

    def state_dict(self) -> dict[str, Any]:
        """Return the stored steps, as plain tensors, the writer's state, and the errors of the steps."""
        rows = self.storage[:].flatten_keys(".").to_dict() if len(self.storage) else {}
        state = {
            # cloned: torch.save would save the whole storage of a view
            "rows": {key: value.as_subclass(Tensor).clone() for key, value in rows.items()},
            "writer": self.writer.state_dict(),
        }
        if rows and isinstance(self.sampler, PrioritySliceSampler):
            state["errors"] = self.sampler.errors(self.storage)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the content by the saved one."""
        self.empty()
        rows = state_dict["rows"]
        if rows:
            shape = rows["action"].shape[: self.storage.ndim]
            stored = TensorDict(rows, shape).unflatten_keys(".")
            self.storage.set(torch.arange(shape[0]), stored)
            self.writer.load_state_dict(state_dict["writer"])
            self.sampler.extend(torch.tensor([self._newest]))
            if isinstance(self.sampler, PrioritySliceSampler):
                self.sampler.load_errors(self.storage, state_dict["errors"])

    @property
    def _newest(self) -> int:
        """Index of the row that was written last."""
        return int(self.writer.state_dict()["_cursor"] - 1) % int(self.storage.shape[0])
