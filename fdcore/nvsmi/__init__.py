"""nvidia-smi for programs of a run: the lease's GPUs, as NVML shows them.

The vendor's program needs private functions of the vendor's NVML. This one needs what
nvml.h has, prints the same tables and lists, and starts fast: nothing heavy is
imported. What NVML does not know is N/A, as it is there.
"""
