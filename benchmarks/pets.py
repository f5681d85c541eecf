"""Detection on the PETS clip: the true boxes, and the average precision of a detector's outputs against them.

Person class, score >= 0.05, NMS at IoU 0.5, AP at IoU 0.5 as the area under the precision envelope, over the whole
clip. The boxes of the ground truth are for a picture of 768 x 576.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import data_folder, network_module

TRUTH_SIZE = (576, 768)
SCORE, NMS_IOU, MATCH_IOU, PERSON = 0.05, 0.5, 0.5, 0

Box = tuple[float, float, float, float]


def true_boxes(size: tuple[int, int]) -> dict[int, list[Box]]:
    """Boxes (left, top, right, bottom) per frame, in pixels of a picture of `size` (height, width)."""
    down, across = size[0] / TRUTH_SIZE[0], size[1] / TRUTH_SIZE[1]
    boxes: dict[int, list[Box]] = {}
    for frame in ElementTree.parse(data_folder() / "pets" / "PETS2009-S2L1.xml").getroot().findall("frame"):
        found = []
        for box in frame.iter("box"):
            x, y, w, h = (float(box.attrib[name]) for name in ("xc", "yc", "w", "h"))
            found.append(((x - w / 2) * across, (y - h / 2) * down, (x + w / 2) * across, (y + h / 2) * down))
        boxes[int(frame.attrib["number"])] = found
    return boxes


class Detector:
    """YOLOv5n's decoding of its three maps."""

    def __init__(self) -> None:
        self._module = network_module("yolov5n")
        self._model, _ = self._module.load(str(data_folder() / "models" / "yolov5n_state.pth"))

    def boxes(self, outputs: Sequence[NDArray[np.float32]]) -> list[tuple[float, ...]]:
        """(left, top, right, bottom, score) of the persons, best first."""
        with torch.no_grad():
            decoded = self._model.decode([torch.from_numpy(np.array(output)) for output in outputs])[0]
            found = self._module.nms(decoded, SCORE, NMS_IOU, cls=[PERSON])
        return sorted((tuple(box[:5]) for box in found), key=lambda box: -box[4])


def average_precision(found: Sequence[Sequence[tuple[float, ...]]], truth: Sequence[Sequence[Box]]) -> float:
    """AP at IoU 0.5; each true box is matched once, by the detection that overlaps it most."""
    scored: list[tuple[float, bool]] = []
    for boxes, real in zip(found, truth, strict=True):
        used: set[int] = set()
        for box in boxes:
            overlaps = [_iou(box, other) for other in real]
            best = int(np.argmax(overlaps)) if overlaps else -1
            hit = best >= 0 and overlaps[best] >= MATCH_IOU and best not in used
            if hit:
                used.add(best)
            scored.append((box[4], hit))
    total = sum(len(real) for real in truth)
    hits = np.cumsum([hit for _, hit in sorted(scored, key=lambda item: -item[0])])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0], hits / total])) * precision))


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
