"""The recurrent Q-learning loss."""

from recdqn.loss.recurrent_dqn import RecurrentDQNLoss, make_loss
from recdqn.loss.slices import Steps

__all__ = ["RecurrentDQNLoss", "Steps", "make_loss"]
