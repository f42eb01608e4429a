"""Train masked CartPole with TorchRL's SliceSampler instead of ours, all else equal.

python benchmarks/sampler.py SEED records results/masked-cartpole-slicesampler/seed-SEED.
"""

import sys
from functools import partial
from unittest import mock

from torchrl.data import SliceSampler

from recdqn import Config, train
from recdqn.book.recorded import RESULTS

if __name__ == "__main__":
    seed = int(sys.argv[1])
    stock = partial(SliceSampler, strict_length=False)
    with mock.patch("recdqn.replay.StepUniformSliceSampler", stock):
        train(
            Config.preset("masked-cartpole", seed=seed),
            out=RESULTS / "masked-cartpole-slicesampler" / f"seed-{seed}",
        )
