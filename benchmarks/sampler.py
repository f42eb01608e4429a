"""Train masked CartPole with TorchRL's SliceSampler instead of ours, all else equal.

``python -m benchmarks.sampler SEED`` records ``results/masked-cartpole-slicesampler/seed-SEED``.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tensordict import NestedKey
from torchrl.data import SliceSampler

from recdqn import Config, train
from recdqn.book.recorded import RESULTS


@contextlib.contextmanager
def stock_sampler() -> Iterator[None]:
    """Within the context, replay buffers have TorchRL's sampler; it may draw slices that are too short."""

    def stock(slice_len: int, traj_key: NestedKey, **ours: Any) -> SliceSampler:
        """Make TorchRL's sampler; the other arguments are those of ours."""
        return SliceSampler(slice_len=slice_len, traj_key=traj_key, strict_length=False)

    with mock.patch("recdqn.replay.make.StepUniformSliceSampler", stock):
        yield


if __name__ == "__main__":
    seed = int(sys.argv[1])
    with stock_sampler():
        train(
            Config.preset("masked-cartpole", seed=seed),
            out=RESULTS / "masked-cartpole-slicesampler" / f"seed-{seed}",
        )
