"""recdqn: recurrent DQN with TorchRL; the package behind the book, one module per chapter."""

from typing import TYPE_CHECKING, Any

from recdqn.checkpoint import load_checkpoint, save_checkpoint
from recdqn.config import Config, Profile
from recdqn.envs import make_env
from recdqn.evaluate import evaluate
from recdqn.loss import RecurrentDQNLoss
from recdqn.policy import make_policy
from recdqn.replay import make_collector, make_replay_buffer
from recdqn.train import resume, train

if TYPE_CHECKING:
    from recdqn.doctor import diagnose

__all__ = [
    "Config",
    "Profile",
    "RecurrentDQNLoss",
    "diagnose",
    "evaluate",
    "load_checkpoint",
    "make_collector",
    "make_env",
    "make_policy",
    "make_replay_buffer",
    "resume",
    "save_checkpoint",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load the doctor when it is asked for: training does without it."""
    if name == "diagnose":
        from recdqn.doctor import diagnose

        return diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
