"""The networks of all benchmarks against PyTorch, from MindFCN's weights: FCN-8s on VGG16, and torchvision's FCNs."""

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def block(in_channels, out_channels, kernels, normalise):
    """Convolution, optional batch normalisation and ReLU for each kernel size."""
    layers = []
    for kernel in kernels:
        layers.append(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=not normalise))
        layers += [nn.BatchNorm2d(out_channels)] if normalise else []
        layers.append(nn.ReLU(inplace=True))
        in_channels = out_channels
    return nn.Sequential(*layers)


class FCN8s(nn.Module):
    """(N, 3, H, W) -> logits (N, classes, H, W); pads to multiples of 32 and crops the logits.

    Args:
        normalise: the course's network, with batch normalisation, no biases and no dropout; otherwise the paper's.
        channels: channels of conv1, conv2, conv3, and of conv4 and conv5.
        fc_width: channels of fc6 and fc7.
        dropout: dropout rate of the paper's network.
        skip_scales: constant factors on pool4 and pool3.
    """

    def __init__(self, normalise, channels=(64, 128, 256, 512), fc_width=4096, classes=21, dropout=0.5,
                 skip_scales=(1, 1)):
        super().__init__()
        self.dropout, self.skip_scales = 0.0 if normalise else dropout, skip_scales
        one, two, three, four = channels
        self.conv1, self.conv2 = block(3, one, (3, 3), normalise), block(one, two, (3, 3), normalise)
        self.conv3, self.conv4 = block(two, three, (3, 3, 3), normalise), block(three, four, (3, 3, 3), normalise)
        self.conv5, self.conv6 = block(four, four, (3, 3, 3), normalise), block(four, fc_width, (7,), normalise)
        self.conv7 = block(fc_width, fc_width, (1,), normalise)
        self.score_fr = nn.Conv2d(fc_width, classes, 1, bias=not normalise)
        self.score_pool4 = nn.Conv2d(four, classes, 1, bias=not normalise)
        self.score_pool3 = nn.Conv2d(three, classes, 1, bias=not normalise)
        self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.upscore_pool4 = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, 8, 4, bias=False)

    def forward(self, x):
        """Score, upsample, fuse."""
        height, width = x.shape[2:]
        if height % 32 or width % 32:
            x = functional.pad(x, (0, -width % 32, 0, -height % 32))
        pooled = []
        for layers in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = functional.max_pool2d(layers(x), 2)
            pooled.append(x)
        for layers in (self.conv6, self.conv7):
            x = functional.dropout(layers(x), self.dropout, self.training)
        # Skip factors of 1: a multiplication allocates another map.
        pool4, pool3 = (pool if scale == 1 else pool * scale for pool, scale in zip(pooled[3:1:-1], self.skip_scales))
        scores = self.upscore_pool4(self.upscore2(self.score_fr(x)) + self.score_pool4(pool4))
        return self.upscore8(scores + self.score_pool3(pool3))[:, :, :height, :width]


class Torchvision(nn.Module):
    """torchvision's FCN on a dilated ResNet: (N, 3, H, W) -> logits (N, classes, H, W); in training of both heads.

    Args:
        depth: 50 or 101.
        classes: channels of the logits.
    """

    def __init__(self, depth, classes):
        super().__init__()
        from torchvision.models import segmentation
        self.net = getattr(segmentation, f"fcn_resnet{depth}")(weights=None, weights_backbone=None,
                                                               num_classes=classes, aux_loss=True)

    def forward(self, x):
        """The auxiliary head is computed in training alone, as MindFCN does; torchvision always computes it."""
        if self.training:
            found = self.net(x)
            return found["out"], found["aux"]
        maps = self.net.backbone(x)["out"]
        return functional.interpolate(self.net.classifier(maps), x.shape[2:], mode="bilinear", align_corners=False)


# (pattern of MindFCN's name, torchvision's name), first match
TORCHVISION = ((r"auxiliary\.score_convs\.", "net.aux_classifier."), (r"auxiliary\.score\.", "net.aux_classifier.4."),
               (r"score_convs\.", "net.classifier."), (r"score\.", "net.classifier.4."),
               (r"conv1\.0\.", "net.backbone.conv1."), (r"conv1\.1\.", "net.backbone.bn1."),
               (r"layer", "net.backbone.layer"))


def rival(path, **options):
    """Build the network of a weight file, with its variant and widths, and load its weights.

    Args:
        path: .npz file with MindFCN's parameter names.
        options: `dropout` and `skip_scales` for FCN8s.
    """
    with np.load(path) as file:
        state = {".".join([*name.split(".")[:-1], NORM.get(name.split(".")[-1], name.split(".")[-1])]):
                 torch.from_numpy(file[name]) for name in file.files if not name.endswith(".step")}
    if "layer4.0.conv1.weight" in state:
        depth = {6: 50, 23: 101}[len({name.split(".")[1] for name in state if name.startswith("layer3.")})]
        net = Torchvision(depth, len(state["score.weight"]), **options)
        state = {_torchvision_name(name): value for name, value in state.items()}
    else:
        *channels, fc_width = (len(state[f"conv{block}.0.weight"]) for block in (1, 2, 3, 4, 6))
        net = FCN8s("conv1.0.bias" not in state, channels, fc_width, len(state["score_fr.weight"]), **options)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    return net


def _torchvision_name(name):
    pattern, theirs = next(pair for pair in TORCHVISION if re.match(pair[0], name))
    return theirs + name[re.match(pattern, name).end():]


def loss_of(logits, labels):
    """Mean cross entropy of a network's result in training; a second head counts half."""
    heads = logits if isinstance(logits, tuple) else (logits,)
    return sum(weight * functional.cross_entropy(head, labels, ignore_index=255)
               for weight, head in zip((1, 0.5), heads))
