"""The run around the training loop: folder, checkpoints, lock, signals."""
