"""What every metric asks of the pictures and masks that it is given."""

from __future__ import annotations

from torch import Tensor


def check_finite(name: str, values: Tensor) -> None:
    """ValueError where a value is inf or NaN: a metric would make a number of it that means nothing."""
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, got inf or nan; did training diverge?")
