"""Benchmark of ``recdqn serve``: many sessions at the same time, and how long a step takes a client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import numpy as np
import psutil

from benchmarks.harness import Row
from recdqn.book.recorded import RESULTS

SESSIONS, STEPS, WARMUP = 64, 200, 20


def serve_row(sessions: int = SESSIONS, steps: int = STEPS) -> Row:
    """Let WebSocket clients act as fast as they are answered, each in a session of its own.

    The rate is that of the server's own processor time. The waiting times depend on what else the machine
    does: clients and server share it.
    """
    program = "import sys; from recdqn.serve import serve; serve(sys.argv[1], port=0)"
    run = RESULTS / "masked-cartpole" / "seed-0"
    server = subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip().replace("http", "ws") + "/ws"
        asyncio.run(_load(address, sessions, WARMUP))
        used = psutil.Process(server.pid)
        begun = sum(used.cpu_times()[:2])
        seconds = asyncio.run(_load(address, sessions, steps))
        rate = sessions * steps / (sum(used.cpu_times()[:2]) - begun)
    finally:
        server.terminate()
        server.wait(20)
    median, slow = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return Row(
        what=f"{sessions} WebSocket sessions of recdqn serve, masked agent "
        f"(a step: median {median:.0f} ms, 99 % within {slow:.0f} ms)",
        ours=rate,
        other=None,
        against="",
        unit="requests/s of processor time",
        ratio=None,
        must="at least 2,000",
        met=rate >= 2_000,
    )


async def _load(address: str, sessions: int, steps: int) -> list[float]:
    """Return the seconds of every step of every client."""
    from websockets.asyncio.client import connect

    async def client(number: int) -> list[float]:
        seen = np.random.default_rng(number).normal(size=(steps, 4)).round(3).tolist()
        taken = []
        async with connect(address) as socket:
            for one in seen:
                begun = time.perf_counter()
                await socket.send(json.dumps({"observation": one}))
                answer = json.loads(await socket.recv())
                taken.append(time.perf_counter() - begun)
                assert answer.get("action") in (0, 1), answer
        return taken

    return [one for taken in await asyncio.gather(*map(client, range(sessions))) for one in taken]
