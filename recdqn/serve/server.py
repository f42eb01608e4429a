"""The server process: load an agent, listen, answer until it is stopped."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from recdqn.errors import UserError, first_line
from recdqn.run.folder import load_agent
from recdqn.serve.app import BYTES, make_app
from recdqn.serve.sessions import SECONDS, Sessions


def serve(run: str | Path, host: str = "127.0.0.1", port: int = 8000, seconds: float = SECONDS) -> None:
    """Serve the agent of a run until the process is stopped; running requests are answered first.

    Args:
        run: its folder.
        host: address to listen on; by default only this machine can reach it. There is no encryption and no
            password: put a proxy that has both in front of it before others can reach it.
        port: 0 takes a free one.
        seconds: after which an unused session expires.

    Raises:
        UserError: if the run cannot be loaded, a package is missing, or the port is in use.
    """
    import socket

    import torch

    if missing := [name for name in ("starlette", "uvicorn", "websockets") if find_spec(name) is None]:
        raise UserError(f"serving needs the package {missing[0]}: pip install 'recdqn[serve]'")
    import uvicorn

    torch.set_num_threads(1)
    agent = load_agent(run)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {first_line(error)}; choose another --host or --port"
        ) from None
    print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
    app = make_app(Sessions(agent, seconds), {"environment": str(agent.cfg.id)})
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=BYTES,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listener])
