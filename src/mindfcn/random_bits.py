"""Random choices that depend on (seed, step) only, so that a resumed run makes the same ones.

MindSpore's generators (nn.Dropout, ops.bernoulli) keep hidden state that a checkpoint cannot hold: after a resume, the
masks of nn.Dropout at rate 0.5 agree with those of an uninterrupted run on 50 % of the elements, like unrelated ones.
"""

import mindspore as ms
from mindspore import ops


def keep_mask(count, rate, seed, step):
    """A random mask that keeps or drops each of `count` elements.

    Args:
        count: number of elements.
        rate: probability of dropping an element, 0..1 (1 excluded).
        seed: int of any size.
        step: (1,) int32, a counter that the caller increases by one for each mask.

    Returns:
        (count,) bool, False where dropped.
    """
    # A scalar, not (1,): MindSpore's sums of unequal shapes keep sixteen bytes for each element.
    bits = _mix(ops.arange(0, count, dtype=ms.int32) + _mix(step + seed * 7919 % 2 ** 31).reshape(()))
    return ops.bitwise_and(ops.stop_gradient(bits), 0x7FFFFF) >= int(rate * 0x800000)


def _mix(bits):
    """Scatter int32 numbers over all 32 bits (a multiply and xor-shift hash)."""
    for factor in (0x7FEB352D, 0x6C078965):
        bits = ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, ms.Tensor(16, ms.int32))) * factor
    return ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, ms.Tensor(15, ms.int32)))
