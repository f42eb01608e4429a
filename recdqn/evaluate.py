"""The first name of :mod:`recdqn.evaluation` and :mod:`recdqn.film`.

``recdqn.evaluate`` is a function. Importing this module leaves it one: the module can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType

from recdqn.evaluation import Evaluation as Evaluation
from recdqn.evaluation import evaluate
from recdqn.film import film as film


class _Function(ModuleType):
    __call__ = staticmethod(evaluate)


sys.modules[__name__].__class__ = _Function
