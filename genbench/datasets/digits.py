"""Handwritten digits: 1,797 scans of 8x8 pixels in 17 levels, included in scikit-learn.

Source: Kaynak, Methods of Combining Multiple Classifiers and Their Applications to Handwritten Digit
Recognition (1995); these are its test half.

The "but_nine" data sets have no nines in any split: for their models, nines are outliers (metric `anomalies:nine`).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from genbench.dataset import Dataset, Space

__all__ = ["binary", "binary_but_nine", "but_nine", "digits"]

SPLIT_SIZES = [1437, 180, 180]  # train, validation, test


@functools.cache
def digits() -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8 in 17 levels.

    They are split 1437/180/180 by a random permutation with seed 0. x (N, 1, 8, 8) uint8.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(data.images).to(torch.uint8)[order, None]
    train, validation, test = torch.split(x, SPLIT_SIZES)
    a, b, c = torch.split(torch.from_numpy(data.target).long()[order], SPLIT_SIZES)
    return Dataset(Space((1, 8, 8), levels=17), train, validation, test, labels=(a, b, c))


@functools.cache
def binary() -> Dataset:
    """The same digits in black and white with dynamic binarization: every batch samples pixels from their intensity.

    Validation and test are one fixed sample (On the quantitative analysis of deep belief networks, 2008, section 5).
    """
    gray, generator = digits(), torch.Generator().manual_seed(0)
    probs = [split.float() / 16 for split in (gray.train, gray.validation, gray.test)]
    train, validation, test = (torch.bernoulli(p, generator=generator).to(torch.uint8) for p in probs)
    return Dataset(Space((1, 8, 8), levels=2), train, validation, test, labels=gray.labels, bernoulli_probs=probs[0])


@functools.cache
def but_nine() -> Dataset:
    """The digits from 0 to 8: every split of `digits` without its nines."""
    return without(digits(), 9)


@functools.cache
def binary_but_nine() -> Dataset:
    """The digits from 0 to 8 in black and white: every split of `digits:binary` without its nines."""
    return without(binary(), 9)


def without(data: Dataset, label: int) -> Dataset:
    """Return `data`, which has labels, without the points of one label."""
    assert data.labels is not None
    a, b, c = (y != label for y in data.labels)
    return replace(
        data,
        train=data.train[a],
        validation=data.validation[b],
        test=data.test[c],
        labels=(data.labels[0][a], data.labels[1][b], data.labels[2][c]),
        bernoulli_probs=None if data.bernoulli_probs is None else data.bernoulli_probs[a],
    )
