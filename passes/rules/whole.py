"""Operators that mix the whole picture, and why: they run as dense islands when an input changed."""

from typing import Any

ATTENTION = "attention compares every position with every other"
STATISTICS = "takes its statistics over the whole picture, so any change changes all of it"
PRODUCT = "a product of two values that both depend on the frame, or over more than the channels"
ORDER = "puts values of the whole picture in order"
FROM_FRAME = "reads places that are computed from the frame"
TRUTH = "true and false are made at the end, of a map of floats"
NO_MAP = "works on a value that is no feature map [1, C, H, W]"
LINE = "works along a sequence, not over rows and columns"

# name of the ATen operator -> why it is not local
WHOLE: dict[str, str] = {
    "group_norm": f"group norm {STATISTICS}",
    "native_group_norm": f"group norm {STATISTICS}",
    "instance_norm": f"instance norm {STATISTICS}",
    "layer_norm": "layer norm over rows or columns takes its statistics over the whole picture",
    "native_layer_norm": "layer norm over rows or columns takes its statistics over the whole picture",
    "batch_norm": "batch norm in training mode takes its statistics over the whole picture",
    "std": f"a standard deviation over rows or columns {STATISTICS}",
    "var": f"a variance over rows or columns {STATISTICS}",
    "linalg_vector_norm": f"a norm over rows or columns {STATISTICS}",
    "sum": "a sum over more than the channels, rows or columns of a map",
    "mean": "a mean over more than the channels, rows or columns of a map",
    "amax": "a maximum over more than the channels, rows or columns of a map",
    "scaled_dot_product_attention": ATTENTION,
    "_native_multi_head_attention": ATTENTION,
    "matmul": PRODUCT,
    "bmm": PRODUCT,
    "mm": PRODUCT,
    "baddbmm": PRODUCT,
    "einsum": PRODUCT,
    "linear": "a linear layer over something else than the channels of every position",
    "addmm": "a linear layer over something else than the channels of every position",
    "bilinear": PRODUCT,
    "grid_sampler": f"sampling {FROM_FRAME}",
    "grid_sampler_2d": f"sampling {FROM_FRAME}",
    "affine_grid_generator": f"sampling {FROM_FRAME}",
    "gather": f"gathering {FROM_FRAME}",
    "scatter": f"scattering {FROM_FRAME}",
    "index": f"indexing {FROM_FRAME}",
    "take_along_dim": f"gathering {FROM_FRAME}",
    "embedding": f"a table look-up {FROM_FRAME}",
    "nonzero": "finds as many values as the frame holds, so its size changes from frame to frame",
    "masked_select": "finds as many values as the frame holds, so its size changes from frame to frame",
    "nms": f"non-maximum suppression {ORDER}",
    "sort": f"sorting {ORDER}",
    "argsort": f"sorting {ORDER}",
    "topk": f"a choice of the largest {ORDER}",
    "max": "a maximum over the whole picture with its place",
    "min": "a minimum over the whole picture with its place",
    "argmin": "the place of the smallest value",
    "cumsum": f"a running sum {LINE}",
    "cumprod": f"a running product {LINE}",
    "conv1d": f"a convolution of one axis {LINE}",
    "conv3d": "a convolution of three axes works over time or depth, not over rows and columns of one frame",
    "lstm": f"a recurrent layer {LINE}",
    "gru": f"a recurrent layer {LINE}",
    "im2col": "unfold copies every window; write the convolution or pool that reads them",
    "col2im": "fold adds up windows that lie over one another; write a transposed convolution",
    "max_unpool2d": f"unpooling {FROM_FRAME}",
    "fractional_max_pool2d": "pools windows that are drawn at random",
    "local_response_norm": "a norm over neighbouring channels",
    "_fft_r2c": "a Fourier transform mixes all positions",
    "_fft_c2c": "a Fourier transform mixes all positions",
    "fft_fft2": "a Fourier transform mixes all positions",
    "rand": "random numbers are new on every frame",
    "randn": "random numbers are new on every frame",
    "rand_like": "random numbers are new on every frame",
    "randn_like": "random numbers are new on every frame",
    "bernoulli": "random numbers are new on every frame",
    "integer": "whole numbers are made at the end, of a map of floats",
    "getitem": "one of several results of a dense operator",
}
WHOLE |= dict.fromkeys(("gt", "lt", "ge", "le", "eq", "ne"), TRUTH)
WHOLE |= dict.fromkeys(
    ("__and__", "__or__", "__xor__", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"), TRUTH
)
WHOLE |= dict.fromkeys(("logical_and", "logical_or", "logical_xor", "logical_not"), TRUTH)
WHOLE |= dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), NO_MAP)
WHOLE |= dict.fromkeys(("permute", "transpose", "t", "movedim", "select", "unbind", "stack", "roll", "flip"), NO_MAP)
WHOLE["_native_batch_norm_legit_no_training"] = f"batch norm {NO_MAP}"


def name_of(target: Any) -> str:
    """The operator's name as a user knows it: the ATen operator without its overload, or the function."""
    return str(target).removeprefix("aten.").split(".")[0] if hasattr(target, "_schema") else str(target.__name__)


def why_unknown(node: Any) -> str:
    """The reason of an operator without a rule."""
    name = name_of(node.target)
    return WHOLE.get(name, f"skipfx does not know {name} as an operator on positions")


def why_no_map(node: Any) -> str:
    """The reason of a known operator that does not return a feature map."""
    value, name = node.meta.get("val"), name_of(node.target)
    if name == "rearrange":
        return f"lays the picture out as {list(value.shape)}, which is no map [1, C, H, W], for what reads it"
    return f"{name} returns {_words(value)}, which is no float map [1, C, H, W]"


def why_no_input(node: Any, source: Any) -> str:
    """The reason of a known operator that reads something else than a feature map."""
    value = source.meta.get("val") if hasattr(source, "meta") else source
    return f"{name_of(node.target)} reads {_words(value)}, which is no float map [1, C, H, W]"


def _words(value: Any) -> str:
    if not hasattr(value, "shape"):
        return "several values" if isinstance(value, list | tuple) else str(value)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
