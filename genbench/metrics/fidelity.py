"""Sample quality in the features of a network: FID, KID, Inception score, precision and recall.

`fidelity` takes a classifier trained on the data set, for gray images with labels; `fidelity:inception` takes the
Inception-v3 of the literature. The network is part of the name of each measurement, so that the two never share a
column. All numbers are computed by torch-fidelity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import (
    DRAWS,
    extrapolate_n_to_inf,
    half_sample_jackknife,
    jackknife_stderr,
    permutation_null,
)
from genbench.metrics.features import FeatureNet, in_domain, pixels
from genbench.metrics.features import inception as inception_v3

__all__ = ["fidelity", "inception"]

MIN_SAMPLES, MAX_REFERENCE = 1000, 10_000  # samples; test points that they are compared with
SUBSETS, SUBSET_SIZE = 10, 1000  # of KID
NEIGHBORS = 3  # of precision and recall
MIN_POINTS = 2 * (NEIGHBORS + 1)  # of a split: each half of the test split needs neighbors
MANY_FEATURES, FEW_DRAWS = 512, 4  # with at least 512 features, 4 halves: FID of 2048 features takes many seconds

MakeMeasurement = Callable[..., Measurement]


def measure(
    evaluation: Evaluation, choose: Callable[[str, Dataset], FeatureNet | None], name: str
) -> dict[str, Measurement]:
    """Return how close samples are to test data, in features of the network that `choose` returns, if any.

    The reference is the test split, eight to 10,000 points; there are as many samples, and at least 1,000. The
    validation split is left out, since weights are selected on it. For the digits, whose test split has 180 points,
    this doubles the floor of FID (8.0 instead of 4.4) and makes standard errors 1.5 times as large; the reference is
    the same for all models. The network of `fidelity` is trained on the training split, which only the floor uses.

    - fid: Fréchet distance of Gaussians fitted to features (GANs Trained by a Two Time-Scale Update Rule Converge to a
      Local Nash Equilibrium, 2017, eq. 6). It is larger for smaller sets: compare it with the floor.
    - fid_floor: what new data would get: the mean over random partitions of reference and training points into sets of
      the same sizes; its error is the standard deviation over partitions. It does not depend on samples.
    - fid_infinity: fid extrapolated linearly in 1/n to infinitely many samples and data; 0 in expectation for new data.
    - kid: unbiased squared maximum mean discrepancy with the kernel (x y / d + 1)^3; 0 in expectation for new data, so
      that it may be negative (Demystifying MMD GANs, 2018, section 4).
    - inception_score: exp E KL(p(y | x), p(y)), at most the number of classes (Improved Techniques for Training GANs,
      2016, section 4), over all samples in one split.
    - precision, recall: the proportion of samples within the distance of some reference point to its third neighbor,
      and the proportion of the reference within that distance of some sample, for equally many of both (Improved
      Precision and Recall Metric for Assessing Generative Models, 2019, eq. 2). New data get about 0.9.
    """
    data, reference = evaluation.dataset, evaluation.dataset.test[:MAX_REFERENCE]
    if not evaluation.model.generative or min(len(reference), len(data.train)) < MIN_POINTS:
        return {}
    if (net := choose(evaluation.run.data, data)) is None:
        return {}
    n, m = max(MIN_SAMPLES, len(reference)), len(reference)
    sets = (evaluation.sampled(n), reference, data.train[:n])
    (fake, logits), (real, _), (train, _) = (net(pixels(x, data.space), evaluation.device) for x in sets)
    make_measurement = partial(Measurement, unit="", n=n, impl=f"{name} 2, {net.about}, {m} points of test")
    draws = DRAWS if fake.shape[1] < MANY_FEATURES else FEW_DRAWS
    jackknife = partial(half_sample_jackknife, draws=draws)
    measurements = {
        **frechet(real, fake, train, draws, make_measurement),
        "kid": make_measurement(
            value=kid(real, fake), stderr=jackknife_stderr(jackknife(kid, real, fake)), better="lower"
        ),
        "inception_score": make_measurement(
            value=inception_score(logits), stderr=jackknife_stderr(jackknife(inception_score, logits)), better="higher"
        ),
        **precision_and_recall(real, fake[:m], partial(make_measurement, n=m)),
    }
    return {f"{key}[{net.name}]": measurement for key, measurement in measurements.items()}


def frechet(
    real: Tensor, fake: Tensor, train: Tensor, draws: int, make_measurement: MakeMeasurement
) -> dict[str, Measurement]:
    """Return FID, its floor, and its extrapolation to infinitely many points."""
    value, halves = fid(real, fake), half_sample_jackknife(fid, real, fake, draws=draws)
    floors, stderr = permutation_null(fid, real, train, draws=draws), jackknife_stderr(halves)
    return {
        "fid": make_measurement(value=value, stderr=stderr, better="lower"),
        "fid_floor": make_measurement(value=floors.mean().item(), stderr=floors.std().item()),
        "fid_infinity": make_measurement(
            value=extrapolate_n_to_inf(value, halves), stderr=stderr, better="lower", kind="estimate"
        ),
    }


def precision_and_recall(real: Tensor, fake: Tensor, make_measurement: MakeMeasurement) -> dict[str, Measurement]:
    """Return precision and recall, with standard errors."""
    values = precision_recall(real, fake)
    halves = half_sample_jackknife(precision_recall, real, fake, draws=FEW_DRAWS).unbind(1)
    return {
        key: make_measurement(value=value, stderr=jackknife_stderr(half_sample_values), better="higher")
        for key, value, half_sample_values in zip(("precision", "recall"), values, halves, strict=True)
    }


# ---------------------------------------------------------------------------------- torch-fidelity on given features


def fid(real: Tensor, fake: Tensor) -> float:
    """Return |mu - mu'|^2 + tr(S + S' - 2 (S S')^1/2), features (n, d), (m, d) float64."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = (fid_features_to_statistics(features) for features in (real, fake))
    return float(fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID])


def kid(real: Tensor, fake: Tensor, degree: int = 3, coef0: float = 1.0) -> float:
    """Return MMD^2 with the kernel (x y / d + coef0)^degree, (n, d), (m, d), averaged over subsets of up to 1,000."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(SUBSET_SIZE, len(real), len(fake))
    options = {"kid_subsets": SUBSETS, "kid_subset_size": size, "kid_kernel_poly_degree": degree}
    result = kid_features_to_metric(real, fake, **options, kid_kernel_poly_coef0=coef0, verbose=False)
    return float(result[KEY_METRIC_KID_MEAN])


def inception_score(logits: Tensor) -> float:
    """Return exp E KL(p(y | x), p(y)) of logits (n, classes)."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return float(isc_features_to_metric(logits, splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN])


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Return the proportion of fake (m, d) in the manifold of real (n, d), and of real in that of fake."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    result = prc_features_to_metric(
        fake.float(), real.float(), prc_neighborhood=NEIGHBORS, prc_batch_size=1000, save_cpu_ram=True, verbose=False
    )
    return float(result[KEY_METRIC_PRECISION]), float(result[KEY_METRIC_RECALL])


fidelity = Metric(partial(measure, choose=in_domain, name="fidelity"))
inception = Metric(partial(measure, choose=inception_v3, name="inception"))
