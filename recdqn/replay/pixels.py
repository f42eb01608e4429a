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
    """Stores every picture once (chapter 5).

    The picture after a step is the picture of the step behind it, so ``("next", "pixels")`` is not stored,
    and batches get it back from there. The last picture of an episode has no step of its own; it is kept
    aside, and so is the newest one of an episode that goes on.

    In a batch, all pictures of a slice are moved by the same few pixels, drawn anew for each slice; the edge
    is repeated behind them. So the network cannot learn single pictures by heart
    (:cite:t:`kostrikov2021image`).

    Args:
        shift: the most pixels by which a slice is moved, up or down and to either side; 0 moves nothing.
        kwargs: those of ``TensorDictReplayBuffer``. The sampler must return slices and mark their last steps
            as done, as :class:`StepUniformSliceSampler` does.
    """

    def __init__(self, *, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift
        self._last: dict[int, Tensor] = {}  # the picture after the newest step of each episode, by its number
        self._many = 1_000  # pictures kept aside, before those of overwritten episodes are looked for

    def extend(self, tensordict: TensorDictBase, **kwargs: Any) -> Tensor:
        """Store steps ``[T]`` or ``[num_envs, T]``."""
        episode, picture = tensordict[TRAJECTORY], tensordict["next", "pixels"]
        last = torch.ones_like(episode, dtype=torch.bool)
        last[..., :-1] = episode[..., 1:] != episode[..., :-1]
        # Cloned one by one: a picture cut out of many would keep all of them in memory.
        kept = (one.clone() for one in picture[last])
        self._last.update(zip(episode[last].tolist(), kept, strict=True))
        index = super().extend(tensordict.exclude(("next", "pixels")), **kwargs)
        if len(self._last) > self._many:
            stored = set(self.storage[:][TRAJECTORY].unique().tolist())
            self._last = {number: kept for number, kept in self._last.items() if number in stored}
            self._many = 2 * len(self._last) + 1_000
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return what the parent does, and the pictures kept aside."""
        return super().state_dict() | {"last": dict(self._last), "many": self._many}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold what was stored, and nothing else."""
        super().load_state_dict(state_dict)
        self._last, self._many = dict(state_dict["last"]), state_dict["many"]

    def sample(
        self, batch_size: int | None = None, return_info: bool = False
    ) -> TensorDictBase | tuple[TensorDictBase, dict]:
        """Draw a batch of slices, as the sampler does."""
        batch, info = super().sample(batch_size, return_info=True)
        end = batch[DONE].squeeze(-1).nonzero().flatten()  # of each slice, in the batch
        episode, place, stored = batch[TRAJECTORY][end], batch["index"][end].unbind(-1), self.storage[:]
        behind = (place[0] + 1) % len(stored), *place[1:]
        last = stored["pixels"][behind]  # the picture after each slice
        for k in ((stored[TRAJECTORY][behind] != episode) | (place[0] == self._newest)).nonzero().flatten():
            last[k] = self._last[int(episode[k])]
        picture = batch["pixels"]
        if self.shift:
            moves = torch.randint(-self.shift, self.shift + 1, (len(end), 2)).tolist()
            picture = _move(picture, end.diff(prepend=end.new_tensor([-1])).tolist(), moves, self.shift)
            last = _move(last, [1] * len(end), moves, self.shift)
        after = torch.empty_like(picture)
        after[:-1] = picture[1:]
        after[end] = last
        batch.update({"pixels": picture, "next": {"pixels": after}})
        return (batch, info) if return_info else batch


def _move(pictures: Tensor, length: list[int], moves: list[list[int]], most: int) -> Tensor:
    """Move pictures down and to the right: so many in a row by the first move, so many by the second."""
    *_, height, width = pictures.shape
    edges = ((0, 0), (0, 0), (most, most), (most, most))
    slices = torch.from_numpy(np.pad(pictures.numpy(), edges, mode="edge")).split(length)
    first = [(most - down, most - right) for down, right in moves]
    return torch.cat(
        [part[..., y : y + height, x : x + width] for part, (y, x) in zip(slices, first, strict=True)]
    )
