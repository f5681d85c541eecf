"""Kernels for NVIDIA GPUs: the rows of `skipfx.runtime.kernels.table`, one kernel launch or two per row."""
