"""The recurrent Q-learning loss."""

from recdqn.loss.recurrent_dqn import RecurrentDQNLoss, Steps, make_loss

__all__ = ["RecurrentDQNLoss", "Steps", "make_loss"]
