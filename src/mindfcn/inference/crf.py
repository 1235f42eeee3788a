"""A fully connected CRF on a network's probabilities (Kraehenbuehl and Koltun 2011): outlines follow the colours.

Two Gaussian kernels connect every pair of pixels, with p positions and I colours:

    k(i, j) = gaussian_weight exp(-|p_i - p_j|^2 / 2 gaussian_sxy^2)
            + bilateral_weight exp(-|p_i - p_j|^2 / 2 bilateral_sxy^2 - |I_i - I_j|^2 / 2 bilateral_srgb^2)

A pair costs k(i, j) if its labels differ (Potts model). Mean field inference, the paper's algorithm 1, starts from the
network's probabilities Q and iterates

    Q_i(l) <- softmax over l of (-U_i(l) + sum over j != i of k(i, j) Q_j(l)),   U = -log of the network's probability.

`mean_field` sums over all pairs and is meant for small photographs; `permutohedral` filters on the permutohedral
lattice, in time linear in the number of pixels, with the package pydensecrf2. The lattice is an approximation, and its
sums include each pixel's own message, j = i, which the equation leaves out: the two agree on the label of 90 to 97 % of
pixels, not on the probabilities.
"""

import dataclasses
import os

import numpy as np

from mindfcn.errors import UserError
from mindfcn.logits import softmax
from mindfcn.storage.files import read_yaml

# Limit of the exact mean field, pixels: it needs two float64 matrices of MAX_PIXELS x MAX_PIXELS.
MAX_PIXELS = 4096
NORMALISATIONS = ("none", "after", "symmetric")


@dataclasses.dataclass(frozen=True)
class CRF:
    """Parameters of a fully connected CRF.

    Attributes:
        gaussian_weight, gaussian_sxy: the smoothness kernel: its weight, and its standard deviation in pixels.
        bilateral_weight, bilateral_sxy, bilateral_srgb: the appearance kernel: its weight, and its standard deviations
            in pixels and in colour steps of 0..255.
        iterations: number of mean field iterations.
        normalisation: of the messages, the kernel-weighted sums over all other pixels: "none"; "after", divided by
            the pixel's own sum of the kernel; "symmetric", divided by the root of the product of both pixels' sums.
        source: origin of the parameters.
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
    """The CRF with the name of a published set, or read from a YAML file as `mindfcn tune_crf` writes it.

    Raises:
        UserError: `name` is neither, the file does not hold a CRF, or the package pydensecrf2 is not installed.
    """
    crf = PUBLISHED.get(name) or _read(name)
    package()
    return crf


def _read(name):
    """Read a CRF from a YAML file. Raises UserError."""
    if not os.path.isfile(name):
        raise UserError(f"--crf {name}: neither a published set ({', '.join(PUBLISHED)}) nor a file")
    known = {field.name: field.type for field in dataclasses.fields(CRF)}
    try:
        entries = read_yaml(name)
    except UserError as error:
        raise UserError(f"--crf {name} does not hold a CRF: {error}; create the file with mindfcn tune_crf") from None
    if not isinstance(entries, dict) or not entries or set(entries) - set(known) or not all(
            isinstance(value, (int, float) if known[key] is float else known[key]) and not isinstance(value, bool)
            for key, value in entries.items()):
        raise UserError(f"--crf {name} does not hold a CRF; write lines such as `bilateral_sxy: 80.0`, for any of "
                        f"{', '.join(known)}, or create the file with mindfcn tune_crf")
    return CRF(**entries)


def package():
    """The module of pydensecrf2. Raises UserError if it is not installed."""
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise UserError("the fully connected CRF needs the package pydensecrf2, which is not installed; install it "
                        "with pip install pydensecrf2, which needs the compiler g++") from None
    return densecrf


def energies(probabilities):
    """U = -log of probabilities (C, ...), with 0 replaced by the smallest float32 to keep U finite."""
    return -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def mean_field(image, probabilities, crf):
    """Exact mean field over all pairs of pixels, for at most MAX_PIXELS pixels.

    The sum that normalises a kernel includes the pixel itself, as in the published programs, so that distant neighbours
    do not dominate a pixel without similar ones; the message that a pixel receives excludes the pixel itself.

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
        raise ValueError(f"{height}x{width} pixels: the exact mean field takes at most {MAX_PIXELS}")
    unary = energies(probabilities.astype(np.float64)).reshape(classes, -1)
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float64)
    colors = image.reshape(-1, 3).astype(np.float64)
    kernel = crf.gaussian_weight * normalised(gaussian(places / crf.gaussian_sxy), crf.normalisation)
    both = np.hstack([places / crf.bilateral_sxy, colors / crf.bilateral_srgb])
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
    """Normalise a kernel (N, N) as in CRF.normalisation; row i holds the weights of the messages to pixel i."""
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
