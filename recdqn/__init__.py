"""recdqn: recurrent DQN with TorchRL; the package behind the book."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recdqn.collect import make_collector
    from recdqn.config import Config
    from recdqn.doctor import diagnose
    from recdqn.doctor.monitor import monitor
    from recdqn.envs import add_primers, make_env
    from recdqn.evaluation import evaluate
    from recdqn.export import export_agent
    from recdqn.learner import Learner
    from recdqn.loss import RecurrentDQNLoss
    from recdqn.policy import make_policy
    from recdqn.replay import make_replay_buffer
    from recdqn.run.folder import load_agent, load_checkpoint, save_checkpoint
    from recdqn.training import resume, train

# The module of each public name, loaded when the name is first used: PyTorch and TorchRL take seconds.
_MODULES = {
    "Config": "recdqn.config",
    "Learner": "recdqn.learner",
    "RecurrentDQNLoss": "recdqn.loss",
    "add_primers": "recdqn.envs",
    "diagnose": "recdqn.doctor",
    "evaluate": "recdqn.evaluation",
    "export_agent": "recdqn.export",
    "load_agent": "recdqn.run.folder",
    "load_checkpoint": "recdqn.run.folder",
    "make_collector": "recdqn.collect",
    "make_env": "recdqn.envs",
    "make_policy": "recdqn.policy",
    "make_replay_buffer": "recdqn.replay",
    "monitor": "recdqn.doctor.monitor",
    "resume": "recdqn.training",
    "save_checkpoint": "recdqn.run.folder",
    "train": "recdqn.training",
}

__all__ = [
    "Config",
    "Learner",
    "RecurrentDQNLoss",
    "add_primers",
    "diagnose",
    "evaluate",
    "export_agent",
    "load_agent",
    "load_checkpoint",
    "make_collector",
    "make_env",
    "make_policy",
    "make_replay_buffer",
    "monitor",
    "resume",
    "save_checkpoint",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
