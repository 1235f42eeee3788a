"""Learning rates of every step of a run."""

import numpy as np


def learning_rates(total_steps: int, base_lr: float, min_lr: float = 0.0, schedule: str = "cosine", power: float = 0.9,
                   warmup_steps: int = 0) -> np.ndarray:
    """(total_steps,) float32: linear growth over the warm-up, then decay from `base_lr` to `min_lr`.

    cosine: min + (base - min) (1 + cos(pi t)) / 2; polynomial: min + (base - min) (1 - t)^power;
    t runs from 0 at the first step after the warm-up to 1 at the last step of the run.

    Raises:
        ValueError: the schedule is unknown.
    """
    warmup_steps = min(warmup_steps, total_steps)
    growth = base_lr * (np.arange(warmup_steps) + 1) / max(warmup_steps, 1)
    time = np.linspace(0, 1, total_steps - warmup_steps)
    shapes = {
        "cosine": lambda: (1 + np.cos(np.pi * time)) / 2,
        "polynomial": lambda: (1 - time) ** power,
        "constant": lambda: np.ones_like(time),
    }
    if schedule not in shapes:
        raise ValueError(f"schedule {schedule!r}: known are {', '.join(shapes)}")
    return np.concatenate([growth, min_lr + (base_lr - min_lr) * shapes[schedule]()]).astype(np.float32)
