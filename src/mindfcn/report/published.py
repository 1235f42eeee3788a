"""Published figures of the networks, to stand beneath our own.

CVPR 2015: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation": table 1 (VOC 2011
validation, 500x500 pixels, Tesla K40c; its AlexNet is Caffe's) and table 2 (seg11valid: the 736 validation images that
are not in SBD's training list). Released nets: mean IoU in the README of the authors' Caffe models, of the journal
version's training. ICCV 2015: Noh, Hong, Han, "Learning Deconvolution Network for Semantic Segmentation": by proposals,
without CRF, trained on VOC 2012 and SBD, their validation images among them. Model zoo: MindSpore's FCN-8s with batch
normalisation, single scale, no flip.
"""

import dataclasses
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        source, split: where it stands and what it was measured on.
        metrics: (pixel accuracy, mean pixel accuracy, mean IoU, frequency weighted IoU) in %; None where not printed.
        parameters: millions; None where not printed.
        milliseconds: a forward pass of one image; None where not printed.
    """
    source: str
    split: str
    metrics: tuple
    parameters: Optional[float] = None
    milliseconds: Optional[float] = None


def _table_1(mean_iou, parameters, milliseconds):
    return Published("CVPR 2015 table 1", "VOC2011 val", (None, None, mean_iou, None), parameters, milliseconds)


def _table_2(*metrics):
    return Published("CVPR 2015 table 2", "seg11valid", metrics)


def _released(mean_iou):
    return Published("released net", "seg11valid", (None, None, mean_iou, None))


_CAFFENET = (_table_1(39.8, 57, 50), _released(48.0))
_PUBLISHED = {
    "fcn32s_fixed_vgg16": (_table_2(83.0, 59.7, 45.4, 72.0),),
    "fcn32s_vgg16": (_table_1(56.0, 134, 210), _table_2(89.1, 73.3, 59.4, 81.4), _released(63.6)),
    "fcn16s_vgg16": (_table_2(90.0, 75.7, 62.4, 83.0), _released(65.0)),
    "fcn8s_vgg16": (_table_2(90.3, 75.9, 62.7, 83.2), _released(65.5)),
    "fcn8s_atonce_vgg16": (_released(65.4),),
    "fcn32s_caffenet": _CAFFENET,
    # torchvision's form, of which nothing is published
    "fcn32s_alexnet": tuple(dataclasses.replace(row, source=f"{row.source} (Caffe's AlexNet)") for row in _CAFFENET),
    "fcn32s_googlenet": (_table_1(42.5, 6, 59),),
    "deconvnet_vgg16": (Published("ICCV 2015 table 1", "VOC2012 test", (None, None, 69.6, None), 252),),
    "fcn8s_vgg16_bn": (Published("model zoo", "VOC2012 val", (None, None, 64.67, None)),),
}


def published(name):
    """Tuple of the Published rows of a network's name; empty where nothing is published of it."""
    return _PUBLISHED.get(name, ())
