"""The machine that a server runs on: its GPUs and its processes."""
