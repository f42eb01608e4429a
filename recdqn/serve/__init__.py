"""Serve an agent over HTTP and WebSocket: each client has a session with its own recurrent state.

The server is Starlette on uvicorn: both are small and widely kept. A step of these agents takes less than a
tenth of a millisecond, so there is nothing to batch or to distribute. Frameworks for serving models, such as
BentoML or Ray Serve, would add more time to a call than the agent takes. Messages are JSON, without pickles.
"""

from recdqn.serve.app import BYTES, make_app
from recdqn.serve.server import serve
from recdqn.serve.sessions import SECONDS, Refused, Sessions

__all__ = ["BYTES", "SECONDS", "Refused", "Sessions", "make_app", "serve"]
