"""The whole compiler up to the PyTorch stream, as one list."""

from skipfx.options import TransformOptions
from skipfx.passes.base import Pass
from skipfx.passes.build_block_masks import BuildBlockMasks
from skipfx.passes.classify_operators import ClassifyOperators
from skipfx.passes.collect_moves import CollectMoves
from skipfx.passes.fold_batchnorm import FoldBatchnorm
from skipfx.passes.fold_constants import FoldConstants
from skipfx.passes.fuse_chains import FuseChains
from skipfx.passes.insert_gates import InsertGates
from skipfx.passes.mask_blocks import MaskBlocks
from skipfx.passes.merge_states import MergeStates
from skipfx.passes.normalise_booleans import NormaliseBooleans
from skipfx.passes.normalise_constants import NormaliseConstants
from skipfx.passes.normalise_pads import NormalisePads
from skipfx.passes.normalise_pools import NormalisePools
from skipfx.passes.normalise_reductions import NormaliseReductions
from skipfx.passes.normalise_slices import NormaliseSlices
from skipfx.passes.normalise_transposed import NormaliseTransposed
from skipfx.passes.recompute_updates import RecomputeUpdates
from skipfx.passes.remove_identity import RemoveIdentity
from skipfx.passes.to_residual import ToResidual


def canonical() -> list[Pass]:
    """Captured -> canonical: the model in one form, whatever its author wrote."""
    return [
        RemoveIdentity(),
        NormaliseSlices(),
        FoldConstants(),
        NormalisePools(),
        NormaliseReductions(),
        NormalisePads(),
        FoldBatchnorm(),
        NormaliseTransposed(),
        CollectMoves(),
        NormaliseBooleans(),
        NormaliseConstants(),
    ]


def partition(exclude: tuple[str, ...] = ()) -> list[Pass]:
    """Canonical -> classified: what is local, what is an island, what is materialised."""
    return [ClassifyOperators(exclude), FuseChains()]


def streaming(options: TransformOptions, input_threshold: float) -> list[Pass]:
    """Classified -> stream.

    Args:
        options: the transformation.
        input_threshold: tau of the frame, in the units of the model's input.
    """
    return [
        # where a residual block need not run at all
        MaskBlocks(options.gate),
        # z_t = z_{t-1} + w * (x_t - x_{t-1})
        ToResidual(),
        # which positions count as changed
        InsertGates(options, input_threshold),
        # in blocks
        BuildBlockMasks(options.mask_block),
        # explicit state
        RecomputeUpdates(options.update),
        MergeStates(),
    ]
