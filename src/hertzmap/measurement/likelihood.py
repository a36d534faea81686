"""Data terms: how badly a map explains reports whose places are known up to a drift.

All work on node values (see `hertzmap.measurement.operator.DriftOperator`) in grey units, are
negative log-likelihoods with their constants, so that their values compare, and are differentiable
in single and double precision. On an operator of random nodes (`DriftOperator.draw`) the same
functions are the Monte Carlo forms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hertzmap.core.errors import ConfigError, ReportsError

LOG_TWO_PI = math.log(2.0 * math.pi)


def read_nodes(
    x: Float[Tensor, "batch rows cols"], cell: Int[Tensor, "nodes 4"], tap: Float[Tensor, "nodes 4"]
) -> Float[Tensor, "batch nodes"]:
    """Read every node of every map: ``v = B x``.

    Args:
        x: maps [grey]; what they hold in walls has no effect, unless it is NaN.
        cell: flat cell index of each tap.
        tap: weight of each tap, of the maps' precision.
    """
    flat = x.flatten(1)
    value = flat.new_zeros(len(flat), len(tap))
    for k in range(4):
        if bool(tap[:, k].any()):  # nodes on cell centres need one tap of four
            value = value + flat.gather(1, cell[:, k].expand(len(flat), -1)) * tap[:, k]
    return value


def _sum_nodes(
    value: Float[Tensor, "batch nodes"], report: Int[Tensor, " nodes"], count: int
) -> Float[Tensor, "batch points"]:
    return value.new_zeros(len(value), count).index_add(1, report, value)


def _moments(
    value: Float[Tensor, "batch nodes"],
    omega: Float[Tensor, " nodes"],
    report: Int[Tensor, " nodes"],
    count: int,
) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points"]]:
    mean = _sum_nodes(omega * value, report, count)
    gap = value - mean[:, report]
    return mean, _sum_nodes(omega * gap**2, report, count)


def _log_joint(
    value: Float[Tensor, "batch nodes"],
    omega: Float[Tensor, " nodes"],
    report: Int[Tensor, " nodes"],
    y: Float[Tensor, "*#batch points"],
    s: Float[Tensor, "*#points"],
) -> Float[Tensor, "batch nodes"]:
    """``log omega_ij - (y_i - v_ij)^2 / 2 s_i^2``."""
    spread = s[..., report] if s.ndim else s
    return torch.log(omega) - 0.5 * ((y[..., report] - value) / spread) ** 2


def _log_sum_nodes(
    joint: Float[Tensor, "batch nodes"], report: Int[Tensor, " nodes"], count: int
) -> Float[Tensor, "batch points"]:
    lowest = joint.new_full((len(joint), count), -torch.inf)
    index = report.expand(len(joint), -1)
    peak = lowest.scatter_reduce(1, index, joint.detach(), "amax")
    return peak + torch.log(_sum_nodes(torch.exp(joint - peak[:, report]), report, count))


def _naive(
    value: Tensor, omega: Tensor, report: Tensor, count: int, y: Tensor, s: Tensor
) -> Tensor:
    if len(omega) != count:
        msg = (
            f"the naive data term ignores drift, but {count} reports have {len(omega)} nodes; "
            "build its operator with zero drift"
        )
        raise ReportsError(msg)
    return _blur(value, omega, report, count, y, s)


def _blur(value: Tensor, omega: Tensor, report: Tensor, count: int, y: Tensor, s: Tensor) -> Tensor:
    mean = _sum_nodes(omega * value, report, count)
    return 0.5 * ((y - mean) / s) ** 2 + torch.log(s) + 0.5 * LOG_TWO_PI


def _paper(
    value: Tensor, omega: Tensor, report: Tensor, count: int, y: Tensor, s: Tensor
) -> Tensor:
    square = _sum_nodes(omega * (y[..., report] - value) ** 2, report, count)  # (y - m)^2 + V
    return 0.5 * square / s**2 + torch.log(s) + 0.5 * LOG_TWO_PI


def _moment(
    value: Tensor, omega: Tensor, report: Tensor, count: int, y: Tensor, s: Tensor
) -> Tensor:
    mean, variance = _moments(value, omega, report, count)
    total = s**2 + variance
    return 0.5 * ((y - mean) ** 2 / total + torch.log(total) + LOG_TWO_PI)


def _mixture(
    value: Tensor, omega: Tensor, report: Tensor, count: int, y: Tensor, s: Tensor
) -> Tensor:
    joint = _log_joint(value, omega, report, y, s)
    return torch.log(s) + 0.5 * LOG_TWO_PI - _log_sum_nodes(joint, report, count)


TERMS: dict[str, Callable[[Tensor, Tensor, Tensor, int, Tensor, Tensor], Tensor]] = {
    "naive": _naive,
    "blur": _blur,
    "paper": _paper,
    "moment": _moment,
    "mixture": _mixture,
}
"""The data terms by name."""


def data_term(
    name: str,
    node_values: Float[Tensor, "batch nodes"],
    omega: Float[Tensor, " nodes"],
    report: Int[Tensor, " nodes"],
    count: int,
    y: Float[Tensor, "*#batch points"],
    s: float | Float[Tensor, "*#points"],
) -> Float[Tensor, "batch points"]:
    """Negative log-likelihood of each report under each map, constants included.

    With m and V the mean and variance of the reading over the drift and S = s^2 + V:

    - ``naive``: Gaussian about the reading at the reported place (operator of zero drift);
    - ``blur``: Gaussian about m, variance s^2;
    - ``paper``: ``((y - m)^2 + V) / 2 s^2``, the closed form of RadioDiff-Inv2's eq. 28 for
      infinitely many draws; an upper bound of ``mixture``;
    - ``moment``: Gaussian with mean m and variance S;
    - ``mixture``: ``-log sum_j omega_j N(y; v_j, s^2)``, the exact likelihood up to quadrature
      (RadioDiff-Inv2, eq. 22).

    Args:
        name: one of `TERMS`.
        node_values: readings of each map at each node [grey], from `read_nodes`.
        omega: probability of each node given its report, above 0.
        report: report of each node.
        count: number of reports.
        y: reported values [grey]; one row for all maps or one per map.
        s: standard deviation of the value noise [grey], above 0; one for all or one per report.

    Raises:
        ConfigError: if there is no such term.
        ReportsError: if ``naive`` meets an operator with drift.
    """
    if name not in TERMS:
        msg = f"there is no data term {name!r}; choose one of {', '.join(TERMS)}"
        raise ConfigError(msg)
    noise = torch.as_tensor(s, dtype=node_values.dtype, device=node_values.device)
    return TERMS[name](node_values, omega, report, count, y, noise)


def responsibilities(
    node_values: Float[Tensor, "batch nodes"],
    omega: Float[Tensor, " nodes"],
    report: Int[Tensor, " nodes"],
    count: int,
    y: Float[Tensor, "*#batch points"],
    s: float | Float[Tensor, "*#points"],
) -> Float[Tensor, "batch nodes"]:
    """Posterior probability of each node given its report's value; sums to 1 per report.

    ``gamma_ij = omega_ij N(y_i; v_ij, s^2) / sum_k omega_ik N(y_i; v_ik, s^2)``; arguments as in
    `data_term`.
    """
    noise = torch.as_tensor(s, dtype=node_values.dtype, device=node_values.device)
    joint = _log_joint(node_values, omega, report, y, noise)
    return torch.exp(joint - _log_sum_nodes(joint, report, count)[:, report])


@final
@dataclass(frozen=True)
class TruePlaces:
    """Where reports were probably taken, given a map."""

    place_m: Float[Tensor, "batch points 2"]
    """Posterior mean of the true place (east, north) [m]."""
    cov_m2: Float[Tensor, "batch points 2 2"]
    """Posterior covariance of the true place [m^2]."""
    gain_nat: Float[Tensor, "batch points"]
    """Information [nat] that the value gave about the place; 0 says nothing."""


def true_places(
    gamma: Float[Tensor, "batch nodes"],
    omega: Float[Tensor, " nodes"],
    report: Int[Tensor, " nodes"],
    offset_m: Float[Tensor, "nodes 2"],
    reported_m: Float[Tensor, "points 2"],
) -> TruePlaces:
    """Take the drift off the reported places.

    Args:
        gamma: responsibilities; for several maps average them by weight first, or pass a batch.
        omega: probability of each node before the value was seen.
        report: report of each node.
        offset_m: node place minus reported place (east, north) [m].
        reported_m: reported places (east, north) [m].
    """
    count = len(reported_m)
    mean = torch.stack(
        [_sum_nodes(gamma * offset_m[:, axis], report, count) for axis in range(2)], dim=-1
    )
    gap = offset_m - mean[:, report]
    cov = [
        _sum_nodes(gamma * gap[..., a] * gap[..., b], report, count)
        for a in range(2)
        for b in range(2)
    ]
    gain = _sum_nodes(torch.special.xlogy(gamma, gamma / omega), report, count)
    return TruePlaces(
        reported_m + mean, torch.stack(cov, dim=-1).unflatten(-1, (2, 2)), gain.clamp(min=0.0)
    )
