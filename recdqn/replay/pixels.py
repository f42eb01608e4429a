"""A replay buffer that stores each image once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from recdqn.replay.buffer import SliceReplayBuffer
from recdqn.replay.sampler import DONE, TRAJECTORY

SPARE = 1_000  # last images kept beyond twice those in use, before unused ones are removed


class PixelReplayBuffer(SliceReplayBuffer):
    """A replay buffer that stores each image once, and shifts the images of each sampled slice.

    ``("next", "pixels")`` of a step equals ``"pixels"`` of the following step, so the buffer stores only
    ``"pixels"`` and restores the other in batches. No step has the last image of an episode as ``"pixels"``.
    The buffer keeps these images separately, and also the newest image of each unfinished episode.

    In a batch, all images of a slice are shifted by the same random number of pixels, with edge pixels
    repeated. This regularises the network (:cite:t:`kostrikov2021image`).

    Args:
        shift: largest shift in each direction, in pixels; 0 turns it off.
        kwargs: arguments of ``TensorDictReplayBuffer``. The sampler must flag the last step of each slice as
            done, as :class:`recdqn.replay.StepUniformSliceSampler` does.
    """

    def __init__(self, *, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift
        self._last: dict[int, Tensor] = {}  # ("next", "pixels") of each episode's newest step, by episode
        self._limit = SPARE

    def extend(self, tensordict: TensorDictBase, **kwargs: Any) -> Tensor:
        """Store steps ``[T]`` or ``[num_envs, T]``."""
        episode, images = tensordict[TRAJECTORY], tensordict["next", "pixels"]
        last = torch.ones_like(episode, dtype=torch.bool)
        last[..., :-1] = episode[..., 1:] != episode[..., :-1]
        # Cloned one by one: a view would keep all images in memory.
        kept = (image.clone() for image in images[last])
        self._last.update(zip(episode[last].tolist(), kept, strict=True))
        index = super().extend(tensordict.exclude(("next", "pixels")), **kwargs)
        if len(self._last) > self._limit:
            stored = set(self.storage[:][TRAJECTORY].unique().tolist())
            self._last = {number: image for number, image in self._last.items() if number in stored}
            self._limit = 2 * len(self._last) + SPARE
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return the parent's state and the images kept separately."""
        return super().state_dict() | {"last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the content by the saved one."""
        super().load_state_dict(state_dict)
        self._last = dict(state_dict["last"])
        self._limit = 2 * len(self._last) + SPARE

    def sample(
        self, batch_size: int | None = None, return_info: bool = False
    ) -> TensorDictBase | tuple[TensorDictBase, dict[str, Any]]:
        """Draw a batch of slices, with ``("next", "pixels")``."""
        batch, info = super().sample(batch_size, return_info=True)
        end = batch[DONE].squeeze(-1).nonzero().flatten()  # [slices]: the last step of each, in the batch
        episode, index, stored = batch[TRAJECTORY][end], batch["index"][end].unbind(-1), self.storage[:]
        following = (index[0] + 1) % len(stored), *index[1:]
        last = stored["pixels"][following]  # the image after each slice
        unstored = (stored[TRAJECTORY][following] != episode) | (index[0] == self._newest)
        for k in unstored.nonzero().flatten():
            last[k] = self._last[int(episode[k])]
        images = batch["pixels"]
        if self.shift:
            offsets = torch.randint(-self.shift, self.shift + 1, (len(end), 2)).tolist()
            images = _shift(images, end.diff(prepend=end.new_tensor([-1])).tolist(), offsets, self.shift)
            last = _shift(last, [1] * len(end), offsets, self.shift)
        after = torch.empty_like(images)
        after[:-1] = images[1:]
        after[end] = last
        batch.update({"pixels": images, "next": {"pixels": after}})
        return (batch, info) if return_info else batch


def _shift(images: Tensor, lengths: list[int], offsets: list[list[int]], limit: int) -> Tensor:
    """Shift each slice by its own (down, right) offset, at most ``limit`` in each direction."""
    *_, height, width = images.shape
    edges = ((0, 0), (0, 0), (limit, limit), (limit, limit))
    slices = torch.from_numpy(np.pad(images.numpy(), edges, mode="edge")).split(lengths)
    corners = [(limit - down, limit - right) for down, right in offsets]
    return torch.cat(
        [part[..., y : y + height, x : x + width] for part, (y, x) in zip(slices, corners, strict=True)]
    )
