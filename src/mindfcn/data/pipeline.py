"""An albumentations pipeline from a YAML file, as a step of the training crops."""

import copy
import hashlib
import json
import os
import random
import threading

import cv2
import numpy as np

from mindfcn.data.transforms import outside_of
from mindfcn.errors import UserError
from mindfcn.storage.files import read_yaml

# The other arrays of a crop besides `image` and `mask`; all of them move as masks do.
OTHERS = ("second", "depth", "hha", "inside")


class Pipeline:
    """A pipeline that moves all planes and masks of a crop alike.

    Colours change as the file says. Masks, depth and HHA are moved to the nearest pixel only, whatever the file says.
    Where pixels from outside the crop come in, masks get the ignore label, depth is unknown, HHA is its mean, and the
    colours are the file's.

    Args:
        path: YAML file that `albumentations.save(..., data_format="yaml")` wrote, or one of the same form.
        ignore_label: the masks' ignore label.
        preprocess: Preprocess of the images.
        crop_size: side of the crops, pixels; the pipeline is tried on an empty one.

    Attributes:
        digest: hash of the file's settings.

    Raises:
        UserError: albumentations is not installed, or the file holds no pipeline, or one that fails on the empty crop.
    """

    def __init__(self, path, ignore_label, preprocess, crop_size):
        self.path, self.ignore_label, self.preprocess = path, ignore_label, preprocess
        settings = read_yaml(path)
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.transform = _transform(path, settings)
        for step in _steps(self.transform):
            # None is a fill that leaves the mask as it is.
            if getattr(step, "fill_mask", None) is not None:
                step.fill_mask = ignore_label
            if hasattr(step, "mask_interpolation"):
                step.mask_interpolation = cv2.INTER_NEAREST
        # Transforms keep their random numbers, so each thread needs its own.
        self.local = threading.local()
        empty = np.zeros((crop_size, crop_size), np.uint8)
        self(np.repeat(empty[..., None], 3, -1), empty, np.random.RandomState(1))

    def __call__(self, image, mask, crops):
        """Transform a crop.

        Args:
            image: (H, W, 3) uint8 BGR, or planes with "image" among them.
            mask: (H, W) or (H, W, 2) uint8.
            crops: `numpy.random` or a RandomState, which one number is drawn from.

        Returns:
            (image, mask) of the same kinds and sizes.

        Raises:
            UserError: a transform fails, or changes the size.
        """
        if not hasattr(self.local, "transform"):
            self.local.transform = copy.deepcopy(self.transform)
        seed = int(crops.randint(2 ** 31))
        self.local.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        planes = dict(image) if isinstance(image, dict) else {"image": image}
        masks = [mask] if mask.ndim == 2 else [np.ascontiguousarray(one) for one in np.moveaxis(mask, -1, 0)]
        given = {**planes, **dict(zip(("mask", "second"), masks))}
        given["inside"] = np.full(masks[0].shape, self._inside, np.uint8)
        given["image"] = cv2.cvtColor(given["image"], cv2.COLOR_BGR2RGB)
        try:
            made = self.local.transform(**given)
        except Exception as error:
            raise UserError(f"{self.path}: {_reason(error)}; training crops have an image and masks") from error
        if made["mask"].shape != masks[0].shape:
            (height, width), (new_height, new_width) = masks[0].shape, made["mask"].shape[:2]
            raise UserError(f"{self.path}: makes a crop of {width}x{height} pixels one of {new_width}x{new_height}; "
                            "leave resizing and cropping to the other settings of --augment")
        outside = made["inside"] != self._inside
        made["image"] = cv2.cvtColor(made["image"], cv2.COLOR_RGB2BGR)
        for name in planes.keys() - {"image"}:
            made[name][outside] = outside_of(name, self.preprocess)
        masks = [made[name] for name in ("mask", "second")[:len(masks)]]
        return ({name: made[name] for name in planes} if isinstance(image, dict) else made["image"],
                masks[0] if mask.ndim == 2 else np.stack(masks, -1))

    @property
    def _inside(self):
        """A number that differs from the one that comes in from outside."""
        return 0 if self.ignore_label else 1


def _transform(path, settings):
    # Silence its check for a newer release at import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ModuleNotFoundError:
        raise UserError("--augment.pipeline: the package albumentations is not installed; pip install "
                        "'mindfcn[augment]', or leave it out") from None
    try:
        transform = albumentations.from_dict(settings)
        return albumentations.Compose([transform], additional_targets=dict.fromkeys(OTHERS, "mask"))
    # Its own words differ by transform: missing keys, unknown classes, pydantic's errors.
    except Exception as error:
        raise UserError(f"{path} holds no albumentations pipeline: {_reason(error)}; write it with "
                        "albumentations.save(pipeline, path, data_format='yaml')") from None


def _reason(error):
    """An error's type and words on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _steps(transform):
    """Yield a transform and those in it."""
    yield transform
    for step in getattr(transform, "transforms", ()):
        yield from _steps(step)
