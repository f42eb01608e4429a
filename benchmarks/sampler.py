"""Train masked CartPole with TorchRL's SliceSampler instead of ours, all else equal.

``python -m benchmarks.sampler SEED`` records ``results/masked-cartpole-slicesampler/seed-SEED``.
"""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from unittest import mock

from torchrl.data import SliceSampler

from recdqn import Config, train
from recdqn.book.recorded import RESULTS


@contextlib.contextmanager
def stock_sampler() -> Iterator[None]:
    """Within the context, replay buffers have TorchRL's sampler; it may draw slices that are too short."""
    stock = partial(SliceSampler, strict_length=False)
    with mock.patch("recdqn.replay.make.StepUniformSliceSampler", stock):
        yield


if __name__ == "__main__":
    seed = int(sys.argv[1])
    with stock_sampler():
        train(
            Config.preset("masked-cartpole", seed=seed),
            out=RESULTS / "masked-cartpole-slicesampler" / f"seed-{seed}",
        )
