"""The recurrent policy and its encoders."""

from recdqn.policy.encoders import PixelEncoder, has_bfloat16
from recdqn.policy.exploration import ladder
from recdqn.policy.policy import make_policy

__all__ = ["PixelEncoder", "has_bfloat16", "ladder", "make_policy"]
