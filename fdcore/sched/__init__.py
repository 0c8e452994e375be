"""Who gets which part of which GPU: plain functions over values, nothing else."""
