"""The errors of skipfx, one tree; each knows the exit code of the command line.

SkipfxError                 1
├── UsageError              2   a call or an option that cannot be right
│   ├── OptionError         2   an unknown option, or a value outside its range
│   └── FrameError          2   a frame of the wrong shape, type, device, or with NaN
├── CaptureError            1   the model could not be captured
├── CompileError            1   the graph could not be lowered
├── DeviceError             1   no GPU, no driver, or not enough of its memory
├── ArtifactError           1   a file that is missing, damaged, or of another version
├── MediaError              1   a clip that cannot be read
├── TrainingError           1   a training that cannot go on
├── VerificationError       3   the transformed model does not agree with the original
├── NothingToTransform      4   no part of the model is local in space
└── InternalError           1   a broken invariant: a bug in skipfx, please report it
"""


class SkipfxError(Exception):
    """Base of all errors that skipfx raises on purpose."""

    exit_code = 1


class UsageError(SkipfxError):
    """A call or an option that cannot be right."""

    exit_code = 2


class OptionError(UsageError):
    """An unknown option, or a value outside its range."""


class FrameError(UsageError):
    """A frame of the wrong shape, type or device, or one that holds NaN or infinity."""


class CaptureError(SkipfxError):
    """The model could not be captured as a graph."""


class CompileError(SkipfxError):
    """The graph could not be lowered to the target."""


class DeviceError(SkipfxError):
    """A GPU that is missing, has no driver, is too old for the code, or is out of memory."""


class ArtifactError(SkipfxError):
    """A file that is missing, damaged, in the way, or of another version."""


class MediaError(SkipfxError):
    """A clip that cannot be read."""


class TrainingError(SkipfxError):
    """A training that cannot go on."""


class VerificationError(SkipfxError):
    """The transformed model does not agree with the original."""

    exit_code = 3


class NothingToTransform(SkipfxError):
    """No part of the model is local in space, so nothing can be skipped."""

    exit_code = 4


class InternalError(SkipfxError):
    """A broken invariant: a bug in skipfx rather than a mistake of the user."""
