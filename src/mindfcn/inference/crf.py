"""A fully connected CRF over a network's probabilities (Kraehenbuehl and Koltun 2011): labels that agree with colours.

Every pixel is tied to every other one by two Gaussian kernels, with p positions and I colours:

    k(i, j) = gaussian_weight exp(-|p_i - p_j|^2 / 2 gaussian_sxy^2)
            + bilateral_weight exp(-|p_i - p_j|^2 / 2 bilateral_sxy^2 - |I_i - I_j|^2 / 2 bilateral_srgb^2)

and pays k(i, j) where the labels of the two differ (Potts). Mean field, the paper's algorithm 1, starts from the
network's probabilities Q and repeats

    Q_i(l) <- softmax over l of (-U_i(l) + sum over j != i of k(i, j) Q_j(l)),   U = -log of the network's probability.

`mean_field` sums over all pairs and is for small photographs; `permutohedral` filters on the permutohedral lattice, in
time linear in the pixels, by the package pydensecrf2. The lattice is coarse: the two give 90 to 97 % of pixels the same
label, not the same probabilities.
"""

import dataclasses
import os

import numpy as np
import yaml

from mindfcn.errors import UserError
from mindfcn.logits import softmax
from mindfcn.storage.files import read_bytes

# Pixels of the exact mean field: two matrices of the square of it, in float64.
MAX_PIXELS = 4096
NORMALISATIONS = ("none", "after", "symmetric")


@dataclasses.dataclass(frozen=True)
class CRF:
    """Parameters of a fully connected CRF.

    Attributes:
        gaussian_weight, gaussian_sxy: the smoothness kernel: its weight, and its standard deviation in pixels.
        bilateral_weight, bilateral_sxy, bilateral_srgb: the appearance kernel: its weight, and its standard deviations
            in pixels and in colour steps of 0..255.
        iterations: of mean field.
        normalisation: of what a pixel is told by a kernel: "none", the sum; "after", the mean, divided by the pixel's
            own sum of the kernel; "symmetric", divided by the root of both pixels' sums.
        source: where the numbers are from.
    """
    gaussian_weight: float = 3.0
    gaussian_sxy: float = 3.0
    bilateral_weight: float = 10.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    iterations: int = 10
    normalisation: str = "symmetric"
    source: str = ""

    def __post_init__(self):
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"CRF: {name} {getattr(self, name)} must be above 0")
        for name in ("gaussian_weight", "bilateral_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"CRF: {name} {getattr(self, name)} must be at least 0")
        if self.iterations < 0 or self.normalisation not in NORMALISATIONS:
            raise UserError(f"CRF: iterations {self.iterations} must be at least 0, and normalisation "
                            f"{self.normalisation!r} one of {', '.join(NORMALISATIONS)}")


PUBLISHED = {
    "krahenbuhl": CRF(3, 3, 10, 60, 20, 10, "after", "example program of Kraehenbuehl and Koltun's release of 2011"),
    "deeplab_v1": CRF(3, 3, 4, 49, 5, 10, "after", "DeepLab-LargeFOV's release: found on 100 validation images"),
    "deeplab_v2_vgg16": CRF(2, 2, 4, 65, 3, 10, "after", "DeepLab v2's release, VGG16"),
    "deeplab_v2_resnet101": CRF(3, 1, 4, 67, 3, 10, "after", "DeepLab v2's release, ResNet-101"),
    "deconvnet": CRF(3, 3, 5, 20, 3, 10, "none", "DeconvNet's release, whose mean field does not normalise"),
    "pydensecrf": CRF(3, 3, 10, 80, 13, 5, "symmetric", "README of pydensecrf"),
}


def crf_of(name):
    """The CRF of a published set's name, or of a YAML file of its attributes, as `mindfcn tune_crf` writes it.

    Raises:
        UserError: neither, the file does not hold a CRF, or the package pydensecrf2 is not installed.
    """
    crf = PUBLISHED.get(name) or _read(name)
    package()
    return crf


def _read(name):
    """The CRF of a YAML file. Raises UserError."""
    if not os.path.isfile(name):
        raise UserError(f"--crf {name}: neither a published set ({', '.join(PUBLISHED)}) nor a file")
    known = {field.name: field.type for field in dataclasses.fields(CRF)}
    try:
        entries = yaml.safe_load(read_bytes(name))
    except (yaml.YAMLError, UnicodeDecodeError):
        entries = None
    if not isinstance(entries, dict) or not entries or set(entries) - set(known) or not all(
            isinstance(value, (int, float) if known[key] is float else known[key]) and not isinstance(value, bool)
            for key, value in entries.items()):
        raise UserError(f"--crf {name} does not hold a CRF; write lines such as `bilateral_sxy: 80.0`, of "
                        f"{', '.join(known)}, or let mindfcn tune_crf find them")
    return CRF(**entries)


def package():
    """The module of pydensecrf2. Raises UserError where it is not installed."""
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise UserError("the fully connected CRF needs the package pydensecrf2, which is not installed; install it "
                        "with pip install pydensecrf2, which compiles it: g++ must be there") from None
    return densecrf


def energies(probabilities):
    """U = -log of probabilities (C, ...), finite: float32's smallest number stands for 0."""
    return -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def mean_field(image, probabilities, crf):
    """Exact mean field by all pairs of pixels, up to MAX_PIXELS of them.

    The pixel itself counts in the kernel's sum that normalises it, as in the published programs, so that a pixel
    without any like it is not torn by its far neighbours; it does not count in what it is told.

    Args:
        image: (H, W, 3) uint8.
        probabilities: (C, H, W) floats.
        crf: CRF.

    Returns:
        (C, H, W) float64.

    Raises:
        ValueError: too many pixels.
    """
    classes, height, width = probabilities.shape
    if height * width > MAX_PIXELS:
        raise ValueError(f"{height}x{width} pixels: all pairs of at most {MAX_PIXELS} pixels are computed")
    unary = energies(probabilities.astype(np.float64)).reshape(classes, -1)
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float64)
    colours = image.reshape(-1, 3).astype(np.float64)
    kernel = crf.gaussian_weight * normalised(gaussian(places / crf.gaussian_sxy), crf.normalisation)
    both = np.hstack([places / crf.bilateral_sxy, colours / crf.bilateral_srgb])
    kernel += crf.bilateral_weight * normalised(gaussian(both), crf.normalisation)
    np.fill_diagonal(kernel, 0)
    found = softmax(-unary)
    for _ in range(crf.iterations):
        found = softmax(found @ kernel.T - unary)
    return found.reshape(probabilities.shape)


def gaussian(features):
    """(N, D) -> (N, N): exp(-|f_i - f_j|^2 / 2)."""
    squares = (features ** 2).sum(1)
    return np.exp(np.minimum(features @ features.T - (squares[:, None] + squares) / 2, 0))


def normalised(kernel, normalisation):
    """A kernel (N, N) as CRF.normalisation says; row i is what pixel i is told."""
    sums = kernel.sum(1)
    if normalisation == "after":
        return kernel / sums[:, None]
    if normalisation == "symmetric":
        return kernel / np.sqrt(sums[:, None] * sums)
    return kernel


def permutohedral(image, probabilities, crf):
    """Mean field on the permutohedral lattice, for photographs of any size.

    Args:
        image: (H, W, 3) uint8.
        probabilities: (C, H, W) floats.
        crf: CRF.

    Returns:
        (C, H, W) float32.

    Raises:
        UserError: the package pydensecrf2 is not installed.
    """
    dense = package()
    classes, height, width = probabilities.shape
    way = {"none": dense.NO_NORMALIZATION, "after": dense.NORMALIZE_AFTER,
           "symmetric": dense.NORMALIZE_SYMMETRIC}[crf.normalisation]
    field = dense.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(energies(probabilities).reshape(classes, -1), np.float32))
    if crf.gaussian_weight:
        field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight, normalization=way)
    if crf.bilateral_weight:
        field.addPairwiseBilateral(sxy=crf.bilateral_sxy, srgb=crf.bilateral_srgb, rgbim=np.ascontiguousarray(image),
                                   compat=crf.bilateral_weight, normalization=way)
    return np.array(field.inference(crf.iterations), np.float32).reshape(probabilities.shape)
