"""The TVM kernels of the CPU runtime, one file per family; `step` puts them into one function."""
