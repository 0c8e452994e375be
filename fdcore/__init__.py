"""fdcore: any CUDA program on any share of any GPU in the pool, as if it were local.

Importing the package touches no driver and starts nothing. The programs are in
fdcore_cli; what they do is in `launch` (fdrun), `server` (fdserver) and `worker`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
