"""Precision: the type that layers compute in, and the layers that stay in float32."""

import mindspore as ms
from mindspore import nn

from mindfcn import combinations
from mindfcn.errors import UserError
from mindfcn.models.layers import LRN

TYPES = {"float32": ms.float32, "float32_strict": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def layer_type(precision, device, option="--precision"):
    """MindSpore's type of a precision's layers.

    Args:
        precision: float32, float32_strict, float16 or bfloat16; auto is float32 on CPU and float16 elsewhere.
        device: CPU, GPU or Ascend.
        option: name of the setting, for the message.

    Raises:
        UserError: the device does not support the type, or gains nothing from it.
    """
    if precision == "auto":
        precision = "float32" if device == "CPU" else "float16"
    if precision not in TYPES:
        raise UserError(f"{option} {precision}: choose one of auto, {', '.join(TYPES)}")
    if found := combinations.reason(device, precision):
        raise UserError(f"{option} {precision} on {device}: {found}")
    return TYPES[precision]


def compute_in(net, dtype, precision="auto"):
    """Set the type that a network's layers compute in, in place; weights keep their float32 values, names and shapes.

    Normalisation computes in float32: a mean over a map and squares of activations (`LRN`) exceed the range of 16 bits.
    On GPU, batch normalisation reads and writes float16 maps itself; elsewhere they are cast before and after it.

    Args:
        net: the network.
        dtype: as `layer_type` returns it.
        precision: float32_strict keeps float32 convolutions on GPU from TF32, in the whole process.

    Returns:
        what the layers compute in, in words, such as "float32 with TF32 convolutions".
    """
    gpu, strict = ms.get_context("device_target") == "GPU", precision == "float32_strict"
    if gpu:
        ms.set_context(gpu_config={"conv_allow_tf32": not strict})
    if dtype != ms.float32:
        # cuDNN's batch normalisation takes float16 maps with float32 weights and statistics. Mixed precision casts only
        # the map, because MindSpore's operator may write to its other inputs.
        kept = [cell for cell in ms.amp.get_black_list() if not gpu or cell is not nn.BatchNorm2d]
        ms.amp.custom_mixed_precision(net, black_list=[*kept, LRN], dtype=dtype)
    words = str(dtype).lower()
    return f"{words} with TF32 convolutions" if gpu and dtype == ms.float32 and not strict else words
