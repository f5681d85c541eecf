"""The material of ``skipfx demo``: synthetic fixed-camera scenes and a small trained segmentation network.

The network is in :mod:`skipfx.demo.network`, which needs torch; the scenes need NumPy alone.
"""

from skipfx.demo.scene import CLASSES, Scene, training_batch

__all__ = ["CLASSES", "Scene", "training_batch"]
