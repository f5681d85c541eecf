"""Frames in: pictures from a video, a folder or a pipe, and how a picture becomes a network's input."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from skipfx.errors import FrameError, MediaError, UsageError
from skipfx.options import Options

Picture = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
INTERPOLATIONS = {"area": "AREA", "bilinear": "LINEAR", "nearest": "NEAREST", "bicubic": "CUBIC"}

Pixels = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(allow_inf_nan=False)]


class Preprocess(Options):
    """How a decoded picture becomes the network's input: resize, choose channels, (value * scale - mean) / std.

    The same picture gives the same bits, always, so that a pixel that stands still does not change: resizing keeps the
    picture in 8 bits, and the rest is a table of 256 floats per channel.

    Attributes:
        size: (height, width) of the input; None keeps the size of the picture.
        interpolation: how pictures of another size are resized, in the terms of OpenCV.
        scale: factor on the 8-bit values; 1/255 gives [0, 1].
        mean: subtracted after scaling: one value, or one per channel in the order of the input's channels.
        std: divided by at last: one value, or one per channel; not 0.
        channels: "rgb" and "bgr" give 3 channels; "gray" (OpenCV's RGB2GRAY) and "luma" (the Y of its RGB2YCrCb) give 1
            by the weights of BT.601, and differ by rounding only.
    """

    size: tuple[Pixels, Pixels] | None = None
    interpolation: Literal["area", "bilinear", "nearest", "bicubic"] = "area"
    scale: Factor = 1 / 255
    mean: tuple[Factor, ...] = (0.0,)
    std: tuple[Factor, ...] = (1.0,)
    channels: Literal["rgb", "bgr", "gray", "luma"] = "rgb"

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.depth):
                raise ValueError(f"{name} needs 1 value or one per channel ({self.depth}), got {len(values)}")
        if 0 in self.std:
            raise ValueError("std is divided by, so it must not be 0")
        return self

    @property
    def depth(self) -> int:
        """C, the number of channels of the input."""
        return 3 if self.channels in ("rgb", "bgr") else 1

    def __call__(self, picture: Picture) -> NDArray[np.float32]:
        """Makes the network's input of a picture.

        Args:
            picture: RGB, uint8 [H, W, 3].

        Returns:
            float32 [1, C, height, width], contiguous, newly allocated.

        Raises:
            FrameError: `picture` is not an 8-bit RGB picture.
            MediaError: resizing, "gray" or "luma" need OpenCV, which is not installed.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise FrameError(f"expected an RGB picture, uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        planes = self._planes(self._resized(picture))
        table = _table(self.scale, self.mean, self.std, self.depth)
        values = np.empty((1, *planes.shape), np.float32)
        for channel, plane in enumerate(planes):
            np.take(table[channel], plane, out=values[0, channel], mode="clip")
        return values

    def _resized(self, picture: Picture) -> Picture:
        if self.size is None or picture.shape[:2] == self.size:
            return picture
        cv2 = _opencv()
        how = getattr(cv2, f"INTER_{INTERPOLATIONS[self.interpolation]}")
        return np.asarray(cv2.resize(np.ascontiguousarray(picture), self.size[::-1], interpolation=how))

    def _planes(self, picture: Picture) -> Picture:
        if self.depth == 3:
            return picture.transpose(2, 0, 1)[:: 1 if self.channels == "rgb" else -1]
        cv2 = _opencv()
        code = cv2.COLOR_RGB2GRAY if self.channels == "gray" else cv2.COLOR_RGB2YCrCb
        return np.atleast_3d(cv2.cvtColor(np.ascontiguousarray(picture), code))[None, :, :, 0]


@lru_cache
def _table(scale: float, mean: tuple[float, ...], std: tuple[float, ...], depth: int) -> NDArray[np.float32]:
    offset, divisor = (np.broadcast_to(values, depth)[:, None] for values in (mean, std))
    return np.asarray((np.arange(256) * scale - offset) / divisor, np.float32)


class FrameSource:
    """The pictures of a clip, once, in order: an iterable of uint8 [H, W, 3] RGB, and a context manager.

    Attributes:
        name: what it reads, for messages.
        len_hint: number of pictures where it is known beforehand, else None. A video's is what its header claims.
    """

    def __init__(
        self,
        name: str,
        pictures: Iterator[Picture],
        limit: int | None,
        count: int | None = None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """Takes the pictures of one clip; `open_frames` is how to get one."""
        self.name = name
        self.len_hint = count if limit is None or count is None else min(count, limit)
        self._pictures = self._checked(islice(pictures, limit))
        self._close = close

    def __iter__(self) -> Iterator[Picture]:
        """The pictures that have not been read yet.

        Raises:
            MediaError: there is none at all, one cannot be read, or its size differs from the first one's.
        """
        return self._pictures

    def __enter__(self) -> Self:
        """The source itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Releases the file."""
        self._close()

    def _checked(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        first = next(pictures, None)
        if first is None:
            raise MediaError(f"{self.name} holds no picture that can be decoded: expected one frame or more")
        yield first
        for index, picture in enumerate(pictures, start=1):
            if picture.shape != first.shape:
                found = f"picture {index} is {picture.shape[:2]} (height, width), the first one {first.shape[:2]}"
                raise MediaError(f"{self.name}: {found}; the pictures of a clip have one size: resize or separate them")
            yield picture


def open_frames(
    source: str | Path | BinaryIO, *, raw_size: tuple[int, int] | None = None, limit: int | None = None
) -> FrameSource:
    """Opens a clip.

    Args:
        source: a video file; a folder of images (png, jpg, jpeg, bmp, webp, tif), read in natural order (2 before 10);
            or raw frames (rgb24) as a binary stream, `-` for standard input.
        raw_size: (height, width) of raw frames, which carry no size of their own.
        limit: stop after this many frames.

    Raises:
        UsageError: `limit` is not positive, or `raw_size` is missing, not positive, or given where it has no use.
        MediaError: the clip is missing, cannot be decoded, or needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be 1 frame or more, got {limit}")
    if isinstance(source, Path) or (isinstance(source, str) and source != "-"):
        if raw_size is not None:
            raise UsageError(f"raw_size is for raw frames on standard input (-); {source} has a size of its own")
        return _open_path(Path(source), limit)
    if raw_size is None or min(raw_size) < 1:
        raise UsageError(f"raw frames carry no size: give raw_size as (height, width) in pixels, got {raw_size}")
    name, stream = ("standard input", sys.stdin.buffer) if isinstance(source, str) else ("the raw stream", source)
    return FrameSource(name, _raw_frames(name, stream, raw_size), limit)


def _open_path(path: Path, limit: int | None) -> FrameSource:
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not files:
            raise MediaError(f"{path} holds no image: expected files that end in {', '.join(IMAGE_SUFFIXES)}")
        return FrameSource(str(path), map(_image, files), limit, len(files))
    if not path.exists():
        raise MediaError(f"{path} does not exist: expected a video, a folder of images, or - for raw frames on a pipe")
    return _open_video(path, limit)


def _open_video(path: Path, limit: int | None) -> FrameSource:
    cv2 = _opencv()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is said by the error below
    level = cv2.utils.logging.setLogLevel(0)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise MediaError(f"{path} cannot be decoded: expected a video that OpenCV can read; convert it to mp4")
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return FrameSource(str(path), _video_frames(cv2, capture), limit, count if count > 0 else None, capture.release)


def _video_frames(cv2: Any, capture: Any) -> Iterator[Picture]:
    while (picture := capture.read()[1]) is not None:
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _image(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise OSError(f"expected 8 bits per channel, got mode {image.mode}")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken files
        raise MediaError(f"{path} cannot be decoded ({error}): replace it or move it out of the folder") from error


def _raw_frames(name: str, stream: BinaryIO, size: tuple[int, int]) -> Iterator[Picture]:
    height, width = size
    wanted = height * width * 3
    while data := _read(stream, wanted):
        if len(data) < wanted:
            found = f"a frame of {height}x{width} rgb24 has {wanted} bytes, the last one had {len(data)}"
            raise MediaError(f"{name} ended within a frame: {found}; check the size (height, width) and the format")
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _read(stream: BinaryIO, wanted: int) -> bytearray:
    data = bytearray()
    while len(data) < wanted and (part := stream.read(wanted - len(data))):
        data += part  # a pipe gives what it has
    return data


def _natural(path: Path) -> list[str | int]:
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", path.name.lower()))]


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MediaError('OpenCV reads videos and resizes; it is not installed: pip install "skipfx[video]"') from error
    return cv2
