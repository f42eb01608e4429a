"""A replay buffer that stores every picture once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from recdqn.replay.buffer import SliceReplayBuffer
from recdqn.replay.sampler import DONE, TRAJECTORY


class PictureReplayBuffer(SliceReplayBuffer):
    """A replay buffer that stores every picture once, and shifts the pictures of each sampled slice.

    ``("next", "pixels")`` of a step equals ``"pixels"`` of the step after it, so it is not stored; batches
    get it from there. The last picture of an episode belongs to no other step. It is kept apart, as is the
    newest picture of an episode that still runs.

    In a batch, all pictures of a slice are shifted by the same random number of pixels; pixels at the edge
    are repeated. This keeps the network from memorising single pictures (:cite:t:`kostrikov2021image`).

    Args:
        shift: largest shift, in pixels, in each direction; 0 turns it off.
        kwargs: arguments of ``TensorDictReplayBuffer``. The sampler must return slices whose last steps are
            flagged as done, as :class:`StepUniformSliceSampler` does.
    """

    def __init__(self, *, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift
        self._last: dict[int, Tensor] = {}  # ("next", "pixels") of each episode's newest step, by episode
        self._many = 1_000  # pictures kept apart before those of overwritten episodes are removed

    def extend(self, tensordict: TensorDictBase, **kwargs: Any) -> Tensor:
        """Store steps ``[T]`` or ``[num_envs, T]``."""
        episode, picture = tensordict[TRAJECTORY], tensordict["next", "pixels"]
        last = torch.ones_like(episode, dtype=torch.bool)
        last[..., :-1] = episode[..., 1:] != episode[..., :-1]
        # Cloned one by one: a view would keep all the pictures in memory.
        kept = (one.clone() for one in picture[last])
        self._last.update(zip(episode[last].tolist(), kept, strict=True))
        index = super().extend(tensordict.exclude(("next", "pixels")), **kwargs)
        if len(self._last) > self._many:
            stored = set(self.storage[:][TRAJECTORY].unique().tolist())
            self._last = {number: kept for number, kept in self._last.items() if number in stored}
            self._many = 2 * len(self._last) + 1_000
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return the parent's state and the pictures kept apart."""
        return super().state_dict() | {"last": dict(self._last), "many": self._many}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the content by the saved one."""
        super().load_state_dict(state_dict)
        self._last, self._many = dict(state_dict["last"]), state_dict["many"]

    def sample(
        self, batch_size: int | None = None, return_info: bool = False
    ) -> TensorDictBase | tuple[TensorDictBase, dict[str, Any]]:
        """Draw a batch of slices, with ``("next", "pixels")``."""
        batch, info = super().sample(batch_size, return_info=True)
        end = batch[DONE].squeeze(-1).nonzero().flatten()  # of each slice, in the batch
        episode, index, stored = batch[TRAJECTORY][end], batch["index"][end].unbind(-1), self.storage[:]
        after_end = (index[0] + 1) % len(stored), *index[1:]
        last = stored["pixels"][after_end]  # the picture after each slice
        unstored = (stored[TRAJECTORY][after_end] != episode) | (index[0] == self._newest)
        for k in unstored.nonzero().flatten():
            last[k] = self._last[int(episode[k])]
        picture = batch["pixels"]
        if self.shift:
            offsets = torch.randint(-self.shift, self.shift + 1, (len(end), 2)).tolist()
            picture = _shift(picture, end.diff(prepend=end.new_tensor([-1])).tolist(), offsets, self.shift)
            last = _shift(last, [1] * len(end), offsets, self.shift)
        after = torch.empty_like(picture)
        after[:-1] = picture[1:]
        after[end] = last
        batch.update({"pixels": picture, "next": {"pixels": after}})
        return (batch, info) if return_info else batch


def _shift(pictures: Tensor, length: list[int], offsets: list[list[int]], most: int) -> Tensor:
    """Shift each slice of ``pictures``, of its ``length``, by its own (down, right) offset."""
    *_, height, width = pictures.shape
    edges = ((0, 0), (0, 0), (most, most), (most, most))
    slices = torch.from_numpy(np.pad(pictures.numpy(), edges, mode="edge")).split(length)
    first = [(most - down, most - right) for down, right in offsets]
    return torch.cat(
        [part[..., y : y + height, x : x + width] for part, (y, x) in zip(slices, first, strict=True)]
    )
