"""Notebooks run in the Python that tests them."""

import json
import os
import sys

from jupyter_client.kernelspec import KernelSpecManager
from own_kernel import prefer_own_kernel


def test_a_kernel_of_another_python_is_not_taken(tmp_path, monkeypatch):
    """As JupyterHub offers one, under the name that the notebooks ask for."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/usr/bin/other"], "display_name": "another", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == "/usr/bin/other"
    prefer_own_kernel()
    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    assert program in (sys.executable, "python") and str(tmp_path) in os.environ["JUPYTER_PATH"]
