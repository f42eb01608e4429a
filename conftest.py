"""Settings for every pytest run, including `pytest --nbmake book`, whose kernels inherit this environment."""

import importlib.util
import os
import secrets

from own_kernel import prefer_own_kernel  # of book/_ext

# What the command line or the shell has set stays: only gaps are filled.
os.environ.setdefault("RECDQN_PROFILE", "smoke")
# Ray asks for a token in some processes and not in others, and keeps one at home: here all have the same one.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
# Ray's processes would wait for all others of the machine, such as a build of the book.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and one thread repeats exactly
prefer_own_kernel()
if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def pytest_configure(config):
    # Tests draw without a window. Notebook kernels are other processes and keep their inline figures.
    if importlib.util.find_spec("matplotlib"):  # the extra `book`
        import matplotlib

        matplotlib.use("Agg")
