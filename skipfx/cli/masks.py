"""Pictures of where a stream computed, and how often: one for each layer."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skipfx.files import write_whole
from skipfx.runtime.stream import Stream


class MaskPictures:
    """Adds up the positions that every layer of a stream computed."""

    def __init__(self) -> None:
        """Starts with no frame."""
        self.frames = 0
        self.counts: dict[str, NDArray[np.int64]] = {}

    def add(self, stream: Stream) -> None:
        """Adds the stream's last frame."""
        self.frames += 1
        for name, computed in stream.active().items():
            self.counts[name] = self.counts.get(name, np.zeros(computed.shape, np.int64)) + computed

    def write(self, folder: Path) -> None:
        """Writes NUMBER-LAYER.png for each layer in order, [H, W]: black is never, white is on every frame.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        for index, (name, count) in enumerate(self.counts.items()):
            data = BytesIO()
            grey = np.rint(count * (255 / max(1, self.frames))).astype(np.uint8)
            Image.fromarray(grey).save(data, "png")
            plain = re.sub(r"[^\w.-]", "_", name)
            write_whole(folder / f"{index:03}-{plain}.png", data.getvalue(), overwrite=True)
