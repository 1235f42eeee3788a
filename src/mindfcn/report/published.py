"""Published figures of the networks, for comparison with measured ones.

CVPR 2015: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation": table 1 (VOC 2011
validation, 500x500 pixels, Tesla K40c; its AlexNet is Caffe's) and table 2 (seg11valid: the 736 validation images that
are not in SBD's training list). Released nets: mean IoU in the README of the authors' Caffe models, trained as in the
journal version. ICCV 2015: Noh, Hong, Han, "Learning Deconvolution Network for Semantic Segmentation": with proposals,
without CRF, trained on VOC 2012 and SBD including their validation images. Model zoo: MindSpore's FCN-8s with batch
normalisation, single scale, no flip. CVPR 2015 tables 4 (NYUDv2, 40 classes), 5 (SIFT Flow) and 6 (PASCAL-Context).
"""

import dataclasses
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        source, split: where it is printed and what it was measured on.
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
    # Nothing is published for torchvision's AlexNet.
    "fcn32s_alexnet": tuple(dataclasses.replace(row, source=f"{row.source} (Caffe's AlexNet)") for row in _CAFFENET),
    "fcn32s_googlenet": (_table_1(42.5, 6, 59),),
    "deconvnet_vgg16": (Published("ICCV 2015 table 1", "VOC2012 test", (None, None, 69.6, None), 252),),
    "fcn8s_vgg16_bn": (Published("model zoo", "VOC2012 val", (None, None, 64.67, None)),),
}


# Other data sets, by number of classes; NYUDv2 also by modality.
_NYUD = {("fcn32s_vgg16", "rgb"): (60.0, 42.2, 29.2, 43.9), ("fcn32s_vgg16", "rgbd"): (61.5, 42.4, 30.5, 45.5),
         ("fcn32s_vgg16", "hha"): (57.1, 35.2, 24.2, 40.4), ("fcn32s_vgg16", "rgb_hha"): (64.3, 44.9, 32.8, 48.0),
         ("fcn16s_vgg16", "rgb_hha"): (65.4, 46.1, 34.0, 49.5)}
_OTHERS = {33: {"fcn16s_vgg16": ("table 5", "SIFT Flow", (85.2, 51.7, 39.5, 76.1))},
           60: {"fcn32s_vgg16": ("table 6", "PASCAL-Context val, 59 classes", (63.8, 42.7, 31.8, 48.3)),
                "fcn16s_vgg16": ("table 6", "PASCAL-Context val, 59 classes", (65.7, 46.2, 34.8, 50.7)),
                "fcn8s_vgg16": ("table 6", "PASCAL-Context val, 59 classes", (65.9, 46.5, 35.1, 51.0))},
           34: {"fcn32s_vgg16": ("table 6", "PASCAL-Context val, 33 classes", (69.8, 65.1, 50.4, 54.9)),
                "fcn16s_vgg16": ("table 6", "PASCAL-Context val, 33 classes", (71.8, 68.0, 53.4, 57.5)),
                "fcn8s_vgg16": ("table 6", "PASCAL-Context val, 33 classes", (71.8, 67.6, 53.5, 57.7))}}


def published(name, classes=21, modality="rgb"):
    """Tuple of the Published rows of a network on the data set with this number of classes; empty if there are none.

    40 classes mean NYUDv2, 33 SIFT Flow, 60 and 34 PASCAL-Context; any other number gets the rows of VOC.
    """
    if classes == 40:
        metrics = _NYUD.get((name, modality))
        return (Published("CVPR 2015 table 4", "NYUDv2 test", metrics),) if metrics else ()
    if classes in _OTHERS:
        row = _OTHERS[classes].get(name)
        return (Published(f"CVPR 2015 {row[0]}", row[1], row[2]),) if row else ()
    return _PUBLISHED.get(name, ())
