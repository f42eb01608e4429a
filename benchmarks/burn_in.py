"""Train masked CartPole with burn-in: what does it bring, and what does it cost?

``python -m benchmarks.burn_in BURN_IN SLICE_LEN SEED`` records
``results/masked-cartpole-burn-in/BURN_IN-SLICE_LEN/seed-SEED``; all other settings are the preset's, which is
recorded in ``results/masked-cartpole``.
"""

import sys

from recdqn import Config, train
from recdqn.book.recorded import RESULTS

if __name__ == "__main__":
    burn_in, slice_len, seed = map(int, sys.argv[1:])
    train(
        Config.preset("masked-cartpole", seed=seed).replace(
            loss={"burn_in": burn_in}, replay={"slice_len": slice_len}
        ),
        out=RESULTS / "masked-cartpole-burn-in" / f"{burn_in}-{slice_len}" / f"seed-{seed}",
    )
