"""The words that the kernels and the assembler share: the columns of a step's row, and the memory of a stream.

A compiled network is one function, `step`, which walks over rows of int64 numbers. A row says what to run (column
`op`) and where its data lie. So the code depends on the kinds of operators in a network, not on the network, and
compiled kernels are reused wherever they recur.

Memory, one flat buffer per type (sizes in elements; offsets into them stand in the rows):

    a  float32  feature maps, held frames, scratch        (one per stream)
    m  uint8    change maps, row flags, dirty maps        (one per stream)
    s  uint8    scratch lines, one per task               (one per stream)
    q  int64    active lists                              (one per stream)
    n  int64    counts                                    (one per stream)
    w  float32  packed weights and numbers                (shared)
    c  int64    rows, sources, index tables               (shared)

A position is packed as y << 16 | x. A feature map is [positions, channels] with a border of zeros: rows are
width + border positions apart, so the border right of one row is the border left of the next.
"""

from enum import IntEnum
from typing import Final, Literal, NamedTuple, get_args

TASKS: Final = 16  # counts and lists are kept per task; more threads than this are not used
TILE: Final = 12  # lists are filled up to a multiple of it; register tiles hold a divisor of it
LANES: Final = 16  # channels of a vector
SUMS: Final = 12  # vectors that hide how long a multiply-add takes: two begin in a cycle, and end four to six later
SCRATCH: Final = 4096  # floats of scratch that a task's chunk of positions fills: it stays in the first cache
HEAVY: Final = 1 << 18  # floats of weights from which on a chunk is longer, because they do not stay in the second
LARGE: Final = 1 << 18  # floats of a map that fills the second cache,
FAR: Final = 1 << 20  # of one that a refresh finds in the third, if there,
VAST: Final = 1 << 21  # and of one that leaves the third, too, or should leave it to others
TAPS: Final = 3  # of a gate's window that are weighed at a time
LINES: Final = 3
SHIFT: Final = 16
MASK: Final = (1 << SHIFT) - 1
# on a GPU
THREADS: Final = 128  # of a block
SIDE_BY_SIDE: Final = THREADS // LANES  # positions of which a block's threads take LANES channels each; a power of two
BLOCKS: Final = 4  # of a launch, for each multiprocessor
POSITIONS: Final = 64  # active positions that a block works on at a time, at most
NARROW: Final = 2  # vectors of output channels
SMALL: Final = 256 * POSITIONS  # of a map, too few for large tiles: a large GPU has half as many blocks
TOGETHER: Final = 4  # floats that are copied at a time where all is aligned to them
CHUNK: Final = 16  # input channels that the weights of a convolution are packed by

FLT_MAX: Final = 3.4028234e38


# what the operands of convolutions are rounded to
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


def chunk_words(precision: Precision) -> int:
    """Words of 32 bits that packed weights of CHUNK input and LANES output channels take on a GPU."""
    return CHUNK * LANES // (1 if precision in ("fp32", "tf32") else 2)


class Op(IntEnum):
    """Kinds of steps."""

    CLEAR = 0
    COMPARE = 1
    DILATE = 2
    DECIDE = 3
    COMMIT = 4
    LIST = 5
    COMPUTE = 6
    EMIT = 7
    KEEP = 8
    OPEN = 9
    WEIGH = 10
    SCORE = 11
    FOLLOW = 12
    # on a GPU
    DENSE = 13
    GIVE = 14


class Core(IntEnum):
    """What reads a window."""

    NONE = 0
    CONV = 1
    DEPTHWISE = 2
    MAX_POOL = 3
    AVG_POOL = 4
    RESIZE = 5
    MOVE = 6
    SUM = 7
    MAX = 8
    MIN = 9
    ARGMAX = 10
    NORM = 11
    SOFTMAX = 12
    LOG_SOFTMAX = 13
    DOT = 14  # a convolution with few output channels, on a CPU


class Tile(NamedTuple):
    """A register tile of a convolution.

    Attributes:
        positions: a divisor of TILE.
        vectors: of LANES output channels, side by side in the packed weights; a panel.
        precision: of the operands on a GPU, which packs its weights for its own kernels; None: for a CPU.
        shape: on a GPU, the class that the convolution's schedule is chosen by (`shape_class`).
        columns: of the window of one filter per channel, and its stride, where neighbours share what they read.
    """

    positions: int
    vectors: int
    precision: Precision | None = None
    shape: str = ""
    columns: tuple[int, int] | None = None

    @property
    def half(self) -> int:
        """Positions of half a tile, if its sums still hide how long a multiply-add takes; else 0."""
        half = self.positions // 2
        return half if half * self.vectors >= SUMS else 0


def shape_class(vectors: int, positions: int) -> str:
    """The class of a convolution on a GPU.

    Args:
        vectors: of LANES output channels, of a group.
        positions: of its output.
    """
    return f"{'narrow' if vectors <= NARROW else 'wide'} {'small' if positions <= SMALL else 'large'}"


CoreSpec = tuple[Core, Tile | None]


class Cell(IntEnum):
    """Fixed cells of `n`; per-map and per-list counts follow."""

    REFRESH = 0  # this frame opens every gate
    BAD = 1  # a frame holds NaN or infinity
    FULL = 2  # emit everything: the output array is fresh
    SLOT = 3  # bit of the output array in the dirty maps
    TAKEN = 4  # on a GPU: address of the arrays taken in,
    GIVEN = 5  # and of the array given out
    STIRRED = 6  # something that was taken in has changed
    # on a GPU, where what serves all streams of a batch stands with the first one's
    SPOILT = 7  # the frame of any stream is bad
    RUNNING = 8  # how many streams have a frame,
    RUNS = 9  # which ones, one number behind the other,
    IDLE = 10  # and whether a stream has none
    FIRST_COUNT = 16


class Column(IntEnum):
    """Columns of a row. What a column means to a kind of step is said where it is read."""

    OP = 0
    # change map written: first position, positions per row, rows, columns, flags per row, counts per task
    MAP = 1
    MAP_ROW = 2
    HEIGHT = 3
    WIDTH = 4
    FLAGS = 5
    COUNT = 6
    # feature map written: first position, floats per row, floats per position, channels
    OUT = 7
    OUT_ROW = 8
    OUT_PIXEL = 9
    CHANNELS = 10
    # gate
    THRESHOLD = 11  # in w: tau, and tau^2 * channels
    NORM = 12  # 0 maximum, 1 root mean square
    DILATION = 13
    # active list: positions per task segment, counts, segment length
    LIST = 14
    LIST_COUNT = 15
    SOURCES = 16
    SOURCE_COUNT = 17
    # core
    CORE = 18  # number of the core in the module, -1 for none
    EPILOGUE = 19  # number of the epilogue in the module
    IN = 20  # first position of the picture (windows: of the padded picture)
    IN_ROW = 21
    IN_PIXEL = 22
    IN_HEIGHT = 23
    IN_WIDTH = 24
    KERNEL_H = 25
    KERNEL_W = 26
    STEP_H = 27  # floats between kernel rows
    STEP_W = 28  # floats between kernel columns
    RUN = 29  # channels read per kernel column (merged with the columns where they are contiguous)
    STRIDE_H = 30
    STRIDE_W = 31
    PAD_H = 32
    PAD_W = 33
    DILATION_H = 34
    DILATION_W = 35
    GROUPS = 36
    GROUP_IN = 37
    GROUP_OUT = 38
    BLOCKS = 39  # vectors per panel
    WEIGHT = 40
    BIAS = 41
    COUNT_PAD = 42
    TAPS_H = 43
    TAPS_W = 44
    TABLE_H = 45  # in c: indices; in w: weights, at WEIGHT and BIAS
    TABLE_W = 46
    # epilogue
    OPERANDS = 47  # four operands: first position, floats per row, floats per position
    PARAMETERS = 59  # four per-channel parameters
    # arrays
    ARRAY = 63
    SPOTS = 64  # positions of scratch in q: where they start; SPOTS_SIZE per task
    MARKS = 65  # where the gate fired, before dilation; then a flag per row
    DIRTY = 66  # which output arrays lack a position, one bit each; then a byte per row
    DENSE_ABOVE = 67  # changed positions from which on the frame is a refresh
    # scratch: where it starts, floats per task, floats per position
    SCRATCH = 68
    SCRATCH_SIZE = 69
    SCRATCH_PITCH = 70  # the channels, in whole vectors
    CHUNK = 71  # times TILE positions fit into it
    LINE = 72  # bytes of a scratch line in s; a task has LINES
    FINITE = 73  # whether NaN or infinity in the array is an error
    PANELS = 74  # runs of output channels that are computed one after another, per group
    TABLE_C = 75  # in c: what a move adds per channel
    SPOTS_SIZE = 76
    SPARE = 77  # floats behind the channels that may be overwritten
    REFERENCE = 78  # of a gate: first float of the picture, floats per row, floats per position
    REFERENCE_ROW = 79
    REFERENCE_PIXEL = 80
    BLOCK = 81  # side of the blocks that open
    INSIDE = 82  # whether positions are kept where the mask is 1 or where it is 0; it is the first operand
    WIDE = 83  # whether all that a convolution reads is aligned to TOGETHER floats
    WINDOW_LINES = 84  # how many lines a window covers; in c: where each starts, from the window's first float
    WINDOW_TABLE = 85
    FUSED = 86  # number of the core and epilogue in one that a refresh runs on a CPU, -1 for none
    HOLD = 87  # number of the hold test of a sparse frame on a CPU
    END = 88  # number of the epilogue that a refresh runs by itself on a CPU
    WAITS = 89  # whether a refresh, too, asks for what it writes before it is needed
    FRESH = 90  # row of a window of each channel from which on a refresh asks for what the next tile reads
    NUMBERS = 91  # columns in a row


OUTSIDE: Final = 1 << 60  # in the tables of a move: a row or column of the fill

OPERAND_COUNT: Final = 4
OPERAND_COLUMNS: Final = 3


class SourceColumn(IntEnum):
    """Columns of a source of an active list."""

    KIND = 0  # 0 window, 1 taps, 2 whole
    MAP = 1  # first position of the picture
    MAP_ROW = 2
    HEIGHT = 3
    WIDTH = 4
    FLAGS = 5
    COUNT = 6
    KERNEL_H = 7
    KERNEL_W = 8
    STRIDE_H = 9
    STRIDE_W = 10
    PAD_H = 11
    PAD_W = 12
    DILATION_H = 13
    DILATION_W = 14
    TABLE_H = 15
    TABLE_W = 16
    NUMBERS = 17
