"""Export a trained agent as one file, for programs without TorchRL or Python: ONNX, or PyTorch's ``.pt2``."""

from recdqn.export.file import description_of, export_agent, opened

__all__ = ["description_of", "export_agent", "opened"]
