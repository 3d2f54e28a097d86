"""How unlikely a sum of random signs is: bounds that hold whatever the weights are."""

import math

import numpy as np
from scipy.special import log_ndtr

BENTKUS = math.log(1 / (4 * math.exp(log_ndtr(-math.sqrt(2)))))
"""Of Bentkus and Dzindzalieta: about 3.18 times the normal tail."""
SLOPES = np.concatenate([[0.0], np.geomspace(0.02, 60, 80)])
"""Exponents of Chernoff's bound that are tried."""


def log_tail(statistic: np.ndarray | float) -> np.ndarray:
    """Log of a bound on P(sum of a_i s_i >= ``statistic`` |a|) for independent fair signs s and any a.

    The smaller of exp(-t^2 / 2) (Hoeffding, 1963) and 3.18 P(normal >= t) (Bentkus and Dzindzalieta, "A tight
    Gaussian bound for weighted sums of Rademacher random variables", Bernoulli 2015).

    >>> round(float(np.exp(log_tail(0.0))), 2), float(np.exp(log_tail(5.0))) < 1e-6
    (1.0, True)
    """
    t = np.maximum(statistic, 0.0)
    tail: np.ndarray = np.minimum(np.minimum(-(t**2) / 2, BENTKUS + log_ndtr(-t)), 0.0)
    return tail


def log_chernoff(weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Log of a bound on P(sum of w_i s_i >= ``total``) for independent fair signs, of few ``weights`` (n,).

    min over slopes of E exp(slope (sum - total)), exact at the largest sum: 2**-n. ``total`` is (m,).
    """
    sizes = np.abs(weights)
    largest = max(float(sizes.max(initial=0.0)), 1e-300)
    slopes = SLOPES[:, None] / largest
    # log cosh x, without overflow
    products = slopes * sizes
    growth = (products + np.log1p(np.exp(-2 * products)) - math.log(2)).sum(axis=1)
    bounds = growth[:, None] - slopes * np.asarray(total)[None, :]
    least: np.ndarray = np.minimum(bounds.min(axis=0), 0.0)
    return least
