"""Dense islands as kernels of a GPU: what TVM's compiler makes of them, and the steps of a plan that this becomes."""
