"""The TVM kernels of the CPU runtime, one file per family; `modules` lists those of a network, `step` calls them."""
