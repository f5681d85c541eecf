"""The picture that `skipfx demo` writes: for each moment the frame, where work was done, and what was seen."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skipfx.demo.scene import CLASSES
from skipfx.demo.show import Moment

CLASS_COLOURS = np.array([(0, 0, 0), (60, 230, 110), (60, 160, 255)])
EMBERS = np.array([(15, 15, 30), (130, 20, 70), (240, 100, 20), (255, 240, 140)])  # from no work to all of it
MARGIN, LINE, TEXT = 10, 28, 18

Pixels = NDArray[np.uint8]


def draw(moments: Sequence[Moment]) -> bytes:
    """A PNG with a row for each moment."""
    height, width = moments[0].picture.shape[:2]
    row = height + LINE + MARGIN
    canvas = Image.new("RGB", (3 * (width + MARGIN) + MARGIN, len(moments) * row + LINE), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(TEXT)
    for number, moment in enumerate(moments):
        for column, (title, pixels) in enumerate(_panels(moment)):
            left, top = MARGIN + column * (width + MARGIN), number * row
            pen.text((left, top + LINE // 2), title, "black", font, anchor="lm")
            canvas.paste(Image.fromarray(pixels), (left, top + LINE))
    _legend(pen, font, len(moments) * row + LINE // 2 - MARGIN // 2)
    data = BytesIO()
    canvas.save(data, "PNG")
    return data.getvalue()


def _panels(moment: Moment) -> list[tuple[str, Pixels]]:
    return [
        (moment.title, moment.picture),
        (f"work done: {moment.work.mean():.1%}", _glowing(moment)),
        ("what the stream sees", _coloured(moment)),
    ]


def _glowing(moment: Moment) -> Pixels:
    """The work in the colours of embers, over a faint picture."""
    stops = np.linspace(0, 1, len(EMBERS))
    glow = np.stack([np.interp(moment.work, stops, EMBERS[:, channel]) for channel in range(3)], axis=-1)
    grey = moment.picture.mean(axis=-1, keepdims=True)
    return np.asarray((0.75 * glow + 0.25 * grey).clip(0, 255), np.uint8)


def _coloured(moment: Moment) -> Pixels:
    """The picture, with objects in the colours of their classes."""
    seen = moment.classes[..., None] > 0
    mixed = 0.4 * moment.picture + 0.6 * CLASS_COLOURS[moment.classes]
    return np.where(seen, mixed, moment.picture).astype(np.uint8)


def _legend(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, middle: int) -> None:
    """What the colours mean."""
    left: float = MARGIN
    labels = [(EMBERS[0], "nothing computed"), (EMBERS[2], "some layers"), (EMBERS[3], "every layer")]
    for colour, label in [*labels, *zip(CLASS_COLOURS[1:], CLASSES[1:], strict=True)]:
        pen.rectangle((left, middle - 8, left + 16, middle + 8), tuple(map(int, colour)))
        pen.text((left + 24, middle), label, "black", font, anchor="lm")
        left += 24 + pen.textlength(label, font) + 3 * MARGIN
