"""FCN-32s, 16s and 8s: coarse scores, upsampled and summed with finer ones (Long et al. 2015, section 4, figure 3).

They take any backbone: a cell that returns maps at strides 8, 16 and 32 under VGG16's names `pool3`, `pool4` and `fc7`.
It has `channels` of these maps, `in_channels` of its images, `multiple` (image sides must be multiples of it),
`has_bias` (of the score layers), and `receptive_fields()`, the position of each map on the image.
"""

import math

from mindspore import nn, ops

from mindfcn.models import layers
from mindfcn.models.analysis.receptive_field import ReceptiveField, alignment
from mindfcn.models.backbones.vgg import VGG16
from mindfcn.models.fusion import score


class FCNHead(nn.Cell):
    """Scores at strides 32, 16 and 8, fused by upsampling and summing, and upsampled to the image's pixels.

    Args:
        num_classes: channels of the result.
        backbone: the backbone.
        skips: number of finer maps used: 0 (FCN-32s), 1 (16s) or 2 (8s).
        upsampling: the upsampling layers: "bilinear" from the start, then learned; "fixed" bilinear; "final_fixed",
            where only the last one is fixed (the paper's text); "xavier", random (the course's code).
        skip_scales: fixed factors on pool4 and pool3 before their score layers. The paper trains all three streams
            at once with (0.01, 0.0001), because finer maps have larger values without normalisation, and their scores
            would dominate.
    """

    def __init__(self, num_classes, backbone, skips, upsampling="bilinear", skip_scales=(1.0, 1.0)):
        super().__init__()
        self.skips = skips
        at = backbone.receptive_fields()
        self.score_fr = score(backbone, "fc7", num_classes)
        fused = at["fc7"]
        if skips >= 1:
            self.upscore2, self.offset2, fused = upsample(num_classes, fused, at["pool4"], backbone, upsampling)
            self.scale_pool4 = layers.Scale(skip_scales[0])
            self.score_pool4 = score(backbone, "pool4", num_classes)
        if skips == 2:
            self.upscore_pool4, self.offset4, fused = upsample(num_classes, fused, at["pool3"], backbone, upsampling)
            self.scale_pool3 = layers.Scale(skip_scales[1])
            self.score_pool3 = score(backbone, "pool3", num_classes)
        final, self.offset, _ = upsample(num_classes, fused, ReceptiveField(), backbone,
                                         upsampling.replace("final_fixed", "fixed"))
        setattr(self, ("upscore", "upscore16", "upscore8")[skips], final)

    def construct(self, maps):
        score_fr = self.score_fr(maps["fc7"])
        if self.skips == 0:
            return self.upscore(score_fr)
        upscore2 = self.upscore2(score_fr)
        fuse_pool4 = add_aligned(upscore2, self.score_pool4(self.scale_pool4(maps["pool4"])), self.offset2)
        if self.skips == 1:
            return self.upscore16(fuse_pool4)
        upscore_pool4 = self.upscore_pool4(fuse_pool4)
        fuse_pool3 = add_aligned(upscore_pool4, self.score_pool3(self.scale_pool3(maps["pool3"])), self.offset4)
        return self.upscore8(fuse_pool3)


class FCN(nn.Cell):
    """A backbone and a head: the common part of FCN32s, FCN16s and FCN8s.

    Args:
        n_class: classes.
        backbone: the backbone; None is the course's VGG16 with batch normalisation, made with `options`.
        upsampling, skip_scales: see FCNHead.
        geometric: classes of a second head on the same backbone (SIFT Flow: Long et al. 2015, section 5); 0 is none.
        options: of VGG16, where `backbone` is None.

    Inputs: (N, C, H, W) float32, normalised, any H and W from 1 up; C is the backbone's `in_channels`.
    Outputs: logits (N, n_class + geometric, H, W) float32.
    """

    skips = 0

    def __init__(self, n_class=21, backbone=None, upsampling="bilinear", skip_scales=(1.0, 1.0), geometric=0,
                 **options):
        # Without prefixes for backbone and head, parameters have the names in the official checkpoints.
        super().__init__(auto_prefix=False)
        self.backbone = backbone or VGG16(**options)
        self.in_channels = self.backbone.in_channels
        self.n_class = n_class
        self.head = FCNHead(n_class, self.backbone, self.skips, upsampling, skip_scales)
        self.geometric = None
        if geometric:
            self.geometric = FCNHead(geometric, self.backbone, self.skips, upsampling, skip_scales)
            self.geometric.update_parameters_name("geometric.")

    @property
    def stride(self):
        """Period of the network in pixels: an image shifted by it gives the same map, shifted by whole cells."""
        return math.lcm(self.backbone.multiple, int(self.backbone.receptive_fields()["fc7"].stride))

    @property
    def reach(self):
        """Largest distance in pixels from an output pixel to an input pixel that affects it.

        Half of fc7's receptive field, plus less than one coarse cell for each upsampling.
        """
        at = self.backbone.receptive_fields()
        upsampled = ("fc7", "pool4", "pool3")[:self.skips + 1]
        return math.ceil(at["fc7"].field / 2 + sum(at[name].stride for name in upsampled))

    def construct(self, image):
        height, width = image.shape[2:]
        maps = self.backbone(pad_to_multiple(image, self.backbone.multiple))
        logits = self.head(maps)
        if self.geometric is not None:
            logits = ops.Concat(1)((logits, self.geometric(maps)))
        top = self.head.offset
        if logits.shape[2:] == (height, width) and top == 0:
            return logits
        if top >= 0 and top + height <= logits.shape[2] and top + width <= logits.shape[3]:
            return logits[:, :, top:top + height, top:top + width]
        # The cells of some dilated backbones begin inside the image: pixels beyond them take the nearest logits.
        rows = ops.clamp(ops.arange(top, top + height), 0, logits.shape[2] - 1)
        columns = ops.clamp(ops.arange(top, top + width), 0, logits.shape[3] - 1)
        return ops.gather(ops.gather(logits, rows, 2), columns, 3)


class FCN32s(FCN):
    """FCN-32s: one score, upsampled 32 times (see FCN)."""

    skips = 0


class FCN16s(FCN):
    """FCN-16s: with the scores of pool4 (see FCN)."""

    skips = 1


class FCN8s(FCN):
    """FCN-8s: with the scores of pool4 and pool3 (see FCN). `FCN8s(21)` is the course's, parameter names included."""

    skips = 2


def upsample(num_classes, coarse, fine, backbone, upsampling):
    """The upsampling layer from one map's cells to a finer map's, and how the two are aligned.

    Returns:
        (layer, offset, ReceptiveField of the fused map): the first `offset` cells of the result lie before the finer
        map's first one; if negative, cells of the finer map come first.
    """
    factor, kernel, offset = alignment(coarse, fine)
    # Padding the layer, where sizes allow it, avoids computing cells only to crop them.
    padding = max(0, min(offset, kernel - factor - offset)) if backbone.multiple > 1 else 0
    fused = ReceptiveField(fine.stride, fine.centre + max(0, -offset) * fine.stride, coarse.field)
    if factor == kernel == 1:
        return nn.Identity(), offset, fused
    init = "xavier" if upsampling == "xavier" else "bilinear"
    return layers.deconv(num_classes, kernel, factor, padding, init, upsampling == "fixed"), offset - padding, fused


def add_aligned(upscore, score, offset):
    """The sum of two maps (N, C, H, W) where they overlap; `offset` as `upsample` gives it."""
    if offset > 0:
        upscore = upscore[:, :, offset:, offset:]
    elif offset < 0:
        score = score[:, :, -offset:, -offset:]
    if upscore.shape == score.shape:
        return upscore + score
    height, width = min(upscore.shape[2], score.shape[2]), min(upscore.shape[3], score.shape[3])
    return upscore[:, :, :height, :width] + score[:, :, :height, :width]


def pad_to_multiple(image, multiple):
    """Zeros (the mean colour) below and at the right of (N, C, H, W), up to the next multiples."""
    height, width = image.shape[2:]
    if height % multiple == 0 and width % multiple == 0:
        return image
    return ops.pad(image, (0, -width % multiple, 0, -height % multiple))
