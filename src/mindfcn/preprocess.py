"""The input normalisation that a set of weights expects. The record is stored with the weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

# Planes of each kind of input, in the order of its channels; number of channels of each plane. Multispectral images
# have one for each mean.
MODALITIES = {"rgb": ("image",), "rgbd": ("image", "depth"), "hha": ("hha",), "rgb_hha": ("image", "hha"),
              "bands": ("bands",)}
CHANNELS = {"image": 3, "depth": 1, "hha": 3}
COUNTS = {3: "three", 4: "four", 6: "six"}
# NYUDv2's means, those of the released nets: HHA in its channel order, and ln(depth in mm).
MEANS = {"hha": (132.431, 94.076, 118.477), "depth": (7.844,)}
# Divisors of those planes, used where colours are divided as well: about their standard deviations in rooms.
DEVIATIONS = {"hha": (57.0, 57.0, 57.0), "depth": (0.5,)}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Normalisation of an input, channel by channel.

    Attributes:
        order: "BGR" or "RGB", the order of the colour channels; HHA always has the order disparity, height, angle.
        mean, std: one number per channel; for colours and HHA on the 0..255 scale, for depth of ln(mm), for bands on
            their own scale.
        modality: one of MODALITIES.
    """
    order: str = "BGR"
    mean: Sequence[float] = (103.53, 116.28, 123.675)
    std: Sequence[float] = (57.375, 57.120, 58.395)
    modality: str = "rgb"

    def __post_init__(self):
        if self.order not in ("BGR", "RGB"):
            raise ValueError(f"order must be BGR or RGB, not {self.order!r}")
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, not {self.modality!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        count = self.channels
        if (len(self.mean) != count or len(self.std) != count or not np.isfinite(self.mean + self.std).all()
                or 0 in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must be {COUNTS.get(count, count)} numbers each, "
                             "std none of them 0")

    @property
    def planes(self) -> tuple:
        """Names of the input's planes, in their order."""
        return MODALITIES[self.modality]

    @property
    def channels(self) -> int:
        """Number of channels of the normalised input."""
        return len(self.mean) if self.modality == "bands" else sum(CHANNELS[plane] for plane in self.planes)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, as written into checkpoints; "rgb" is left out, as in earlier checkpoints."""
        entries = dataclasses.asdict(self)
        if self.modality == "rgb":
            del entries["modality"]
        return entries

    def to(self, modality: str) -> "Preprocess":
        """The record of another modality: planes that this one has too keep their numbers.

        Other planes get NYUDv2's means, colours those of ImageNet, and they are divided if this record divides.
        """
        own, at = {}, 0
        for plane in self.planes:
            own[plane] = slice(at, at := at + CHANNELS.get(plane, self.channels))
        scaled = any(value != 1 for value in self.std)
        mean: list[float] = []
        std: list[float] = []
        for plane in MODALITIES[modality]:
            if plane in own:
                mean += self.mean[own[plane]]
                std += self.std[own[plane]]
            elif plane == "image":
                known = COURSE if scaled else CAFFE
                mean += known.mean if self.order == known.order else known.mean[::-1]
                std += known.std if self.order == known.order else known.std[::-1]
            else:
                mean += MEANS[plane]
                std += DEVIATIONS[plane] if scaled else [1] * CHANNELS[plane]
        return Preprocess(self.order, mean, std, modality)

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """Normalise (H, W, 3) uint8 BGR, as OpenCV reads it, to (H, W, 3) float32 in this record's order."""
        if self.order == "RGB":
            image = image[..., ::-1]
        return (image.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def denormalise(self, image: np.ndarray) -> np.ndarray:
        """Undo `normalise` for display: (H, W, 3) float32 in this record's order -> (H, W, 3) uint8 RGB."""
        pixels = np.rint(image * np.array(self.std, np.float32) + np.array(self.mean, np.float32))
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        return pixels if self.order == "RGB" else pixels[..., ::-1]


# The course's values: ImageNet's mean and standard deviation, in OpenCV's channel order.
COURSE = Preprocess()
# The same in torchvision's channel order; swapping the input channels of the first convolution converts between them.
TORCHVISION = Preprocess("RGB", COURSE.mean[::-1], COURSE.std[::-1])
# The published Caffe networks subtract the mean colour and do not divide.
CAFFE = Preprocess("BGR", (104.00699, 116.66877, 122.67892), (1, 1, 1))
# The released nets for NYUDv2 and SIFT Flow subtract the mean colour of those data sets.
NYUD = Preprocess("BGR", (116.190, 97.203, 92.318), (1, 1, 1))
SIFTFLOW = Preprocess("BGR", (114.578, 115.294, 108.353), (1, 1, 1))
# The records by their names in settings.
CONVENTIONS = {"course": COURSE, "caffe": CAFFE, "nyud": NYUD, "siftflow": SIFTFLOW}
