"""Whether a GPU, and the way to it, do what they should: kernels made by Numba and
their references on the processor. Alone in fdcore it imports numba and numpy, and it is
a program of its own, `python -m fdcore.verify`, which any CUDA driver can run.
"""
