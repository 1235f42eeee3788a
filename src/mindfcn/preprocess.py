"""What a set of weights expects of its input image. The record travels with the weights."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Channel order, mean and standard deviation, on the 0..255 scale and in that order."""
    order: str = "BGR"
    mean: Sequence[float] = (103.53, 116.28, 123.675)
    std: Sequence[float] = (57.375, 57.120, 58.395)

    def __post_init__(self):
        if self.order not in ("BGR", "RGB"):
            raise ValueError(f"order must be BGR or RGB, not {self.order!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite(self.mean + self.std).all() or 0 in self.std:
            raise ValueError(f"mean {self.mean} and std {self.std} must be three numbers each, std none of them 0")

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR, as OpenCV reads it -> (H, W, 3) float32 in this record's order."""
        if self.order == "RGB":
            image = image[..., ::-1]
        return (image.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def denormalise(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) float32 in this record's order -> (H, W, 3) uint8 RGB, to look at."""
        pixels = np.rint(image * np.array(self.std, np.float32) + np.array(self.mean, np.float32))
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        return pixels if self.order == "RGB" else pixels[..., ::-1]


# The course's values: ImageNet's mean and deviation, in OpenCV's channel order.
COURSE = Preprocess()
# The same in torchvision's channel order: swapping the input channels of the first convolution leads from one to the
# other.
TORCHVISION = Preprocess("RGB", COURSE.mean[::-1], COURSE.std[::-1])
# The published Caffe networks subtract the mean colour and do not divide.
CAFFE = Preprocess("BGR", (104.00699, 116.66877, 122.67892), (1, 1, 1))
# The records that settings can name.
CONVENTIONS = {"course": COURSE, "caffe": CAFFE}
