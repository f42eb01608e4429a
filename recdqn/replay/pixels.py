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
        images, last = batch["pixels"], self._images_after(batch[end])
        if self.shift:
            offsets = torch.randint(-self.shift, self.shift + 1, (len(end), 2)).tolist()
            images = _shift(images, end.diff(prepend=end.new_tensor([-1])).tolist(), offsets)
            last = _shift(last, [1] * len(end), offsets)
        after = torch.empty_like(images)
        after[:-1] = images[1:]
        after[end] = last
        batch.set("pixels", images).set(("next", "pixels"), after)
        return (batch, info) if return_info else batch

    def _images_after(self, steps: TensorDictBase) -> Tensor:
        """Return the image that follows each of the steps of a batch."""
        stored, index = self.storage[:], steps["index"].unbind(-1)
        pixels, episode = (stored[key].as_subclass(Tensor) for key in ("pixels", TRAJECTORY))
        following = (index[0] + 1) % len(stored), *index[1:]
        images = pixels[following]
        unstored = (episode[following] != steps[TRAJECTORY]) | (index[0] == self._newest)
        for k in unstored.nonzero().flatten():
            images[k] = self._last[int(steps[TRAJECTORY][k])]
        return images


def _shift(images: Tensor, lengths: list[int], offsets: list[list[int]]) -> Tensor:
    """Shift each slice by its own offset, (down, right), with edge pixels repeated."""
    shifted = torch.empty_like(images)
    parts = zip(images.split(lengths), shifted.split(lengths), offsets, strict=True)
    for source, target, (down, right) in parts:
        _shift_slice(source.numpy(), target.numpy(), down, right)
    return shifted


def _shift_slice(source: np.ndarray, target: np.ndarray, down: int, right: int) -> None:
    *_, height, width = source.shape
    top, bottom = max(down, 0), height + min(down, 0)
    left, end = max(right, 0), width + min(right, 0)
    target[..., top:bottom, left:end] = source[..., top - down : bottom - down, left - right : end - right]
    target[..., top:bottom, :left] = target[..., top:bottom, left : left + 1]
    target[..., top:bottom, end:] = target[..., top:bottom, end - 1 : end]
    target[..., :top, :] = target[..., top : top + 1, :]
    target[..., bottom:, :] = target[..., bottom - 1 : bottom, :]
