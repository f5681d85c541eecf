"""The portable lowering: a stream graph in plain ATen that skips in any ONNX runtime."""

from skipfx.passes.portable.lower import Layer, Portable, State, lower_portable

__all__ = ["Layer", "Portable", "State", "lower_portable"]
