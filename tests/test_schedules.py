"""Learning rates against closed forms and PyTorch's schedulers."""

import math
import warnings

import numpy as np
import pytest

from mindfcn.schedules import learning_rates


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
@pytest.mark.parametrize("steps, warmup", [(1, 0), (1, 1), (1, 5), (2, 0), (10, 3), (10, 9), (10, 10), (1000, 0)])
def test_one_rate_a_step_within_bounds(schedule, steps, warmup):
    rates = learning_rates(steps, 0.05, 0.0005, schedule, warmup_steps=warmup)
    assert rates.shape == (steps,) and rates.dtype == np.float32
    assert rates.max() == np.float32(0.05) and (rates >= np.float32(0.0005)).all()


@pytest.mark.parametrize("base, low", [(0.05, 0.0005), (1e-3, 0.0)])
def test_cosine_at_the_points_known_by_hand(base, low):
    rates = learning_rates(13, base, low)
    known = {0: 1, 2: (1 + math.sqrt(3) / 2) / 2, 3: (1 + math.sqrt(0.5)) / 2, 4: 0.75, 6: 0.5, 8: 0.25, 12: 0}
    for step, share in known.items():
        assert rates[step] == pytest.approx(low + (base - low) * share, rel=1e-6, abs=1e-12)
    assert (np.diff(rates) < 0).all()


def test_polynomial_at_the_points_known_by_hand():
    np.testing.assert_allclose(learning_rates(5, 1, 0.2, "polynomial", power=2),
                               0.2 + 0.8 * np.array([1, 9 / 16, 1 / 4, 1 / 16, 0]), rtol=1e-6)
    np.testing.assert_allclose(learning_rates(5, 1, 0, "polynomial", power=1), [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)


def test_constant_is_the_base():
    assert (learning_rates(7, 0.01, 0.001, "constant") == np.float32(0.01)).all()


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
def test_warm_up_grows_linearly_to_the_base_and_decay_starts_there(schedule):
    rates = learning_rates(25, 0.4, 0.1, schedule, warmup_steps=5)
    np.testing.assert_allclose(rates[:5], [0.08, 0.16, 0.24, 0.32, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(rates[5:], learning_rates(20, 0.4, 0.1, schedule))
    assert rates[-1] == pytest.approx(0.4 if schedule == "constant" else 0.1)


def test_warm_up_longer_than_the_run_ends_with_it():
    np.testing.assert_allclose(learning_rates(4, 1, warmup_steps=9), [0.25, 0.5, 0.75, 1], rtol=1e-6)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="'step'.*cosine, polynomial, constant"):
        learning_rates(4, 1, schedule="step")


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_equals_pytorchs_schedulers(schedule):
    torch = pytest.importorskip("torch")
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    kinds = torch.optim.lr_scheduler
    if schedule == "cosine":
        low, scheduler = 0.0005, kinds.CosineAnnealingLR(optimiser, T_max=49, eta_min=0.0005)
    else:
        low, scheduler = 0.0, kinds.PolynomialLR(optimiser, total_iters=49, power=0.9)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(50):
            expected.append(scheduler.get_last_lr()[0])
            optimiser.step()
            scheduler.step()
    np.testing.assert_allclose(learning_rates(50, 0.05, low, schedule, power=0.9), expected, rtol=2e-5, atol=1e-9)
