"""Fully convolutional semantic segmentation on MindSpore.

The names below are the public ones. Each is imported when it is first used: `import mindfcn` itself is instant and
needs no MindSpore.
"""

import importlib

_HOMES = {
    "mindfcn.config": ("AugmentConfig", "CompareConfig", "DescribeConfig", "EvalConfig", "ExplainConfig",
                       "ExportConfig", "InspectConfig", "LabelsConfig", "ModelConfig", "OptimConfig",
                       "PredictConfig", "PrepareConfig", "ServeConfig", "TrainConfig", "TuneCrfConfig", "Variant"),
    "mindfcn.data.dataset": ("SegDataset",),
    "mindfcn.data.edges": ("edge_maps",),
    "mindfcn.data.instances": ("find_objects",),
    "mindfcn.data.proposals": ("propose",),
    "mindfcn.dense.ensemble": ("Ensemble",),
    "mindfcn.dense.instances": ("InstanceWise",),
    "mindfcn.dense.shift_and_stitch": ("shift_and_stitch",),
    "mindfcn.dense.inference": ("Inference",),
    "mindfcn.dense.exported": ("OnnxSegmenter",),
    "mindfcn.dense.whole_image": ("Segmenter",),
    "mindfcn.engine.compare": ("compare",),
    "mindfcn.engine.describe": ("describe",),
    "mindfcn.engine.evaluate": ("evaluate",),
    "mindfcn.engine.explain": ("explain",),
    "mindfcn.engine.export": ("export", "write_onnx"),
    "mindfcn.engine.inspect": ("inspect",),
    "mindfcn.engine.labels": ("propose_labels",),
    "mindfcn.engine.networks": ("load_segmenter",),
    "mindfcn.engine.predict": ("open_segmenter", "predict"),
    "mindfcn.engine.prepare": ("list_samples", "prepare"),
    "mindfcn.engine.recalibrate": ("recalibrate",),
    "mindfcn.engine.train": ("train",),
    "mindfcn.engine.tune_crf": ("tune_crf",),
    "mindfcn.errors": ("UserError",),
    "mindfcn.labels": ("VOC", "LabelSet"),
    "mindfcn.losses": ("CrossEntropy",),
    "mindfcn.metrics": ("ConfusionMatrix", "FrequencyWeightedIntersectionOverUnion", "MeanIntersectionOverUnion",
                        "PixelAccuracy", "PixelAccuracyClass", "segmentation_metrics"),
    "mindfcn.models.alexnet": ("AlexNet",),
    "mindfcn.models.convolutionalise": ("conv_to_dense", "convolutionalise", "dense_to_conv"),
    "mindfcn.models.deconvnet": ("DeconvNet",),
    "mindfcn.models.factory": ("create_model",),
    "mindfcn.models.fcn": ("FCN16s", "FCN32s", "FCN8s"),
    "mindfcn.models.googlenet": ("GoogLeNet",),
    "mindfcn.models.rarefaction": ("rarefy",),
    "mindfcn.models.vgg": ("VGG16",),
    "mindfcn.preprocess": ("CAFFE", "COURSE", "Preprocess"),
    "mindfcn.report.live": ("LiveCurve",),
    "mindfcn.report.masks": ("overlay", "overlay_with_legend", "side_by_side"),
    "mindfcn.schedules": ("learning_rates",),
    "mindfcn.weights.card": ("Card",),
    "mindfcn.weights.checkpoint": ("load_checkpoint", "save_checkpoint"),
    "mindfcn.weights.surgery": ("load_stage", "load_trunk", "load_vgg16", "load_weights"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name):
    if name == "__version__":
        value = _version()
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'mindfcn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def _version():
    """The installed package's version; 0+source where the source is used without installing it."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("mindfcn")
    except PackageNotFoundError:
        return "0+source"
