"""Retrieval between images and texts: the name of an image, and the images of a name.

For models with a similarity of images and texts.
"""

from __future__ import annotations

import io

import torch
from torch import Tensor

from genbench.capabilities import HasSimilarity
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import proportion
from genbench.metrics.samples import PIXELS

__all__ = ["retrieval"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well images of the test split and the distinct texts of the training split retrieve each other.

    - zero_shot_accuracy: the proportion of images whose most similar text is their own (Learning Transferable Visual
      Models From Natural Language Supervision, 2021, section 3.1). No classifier is fitted, but the texts are those
      seen in training. With as many texts as classes, it is also the recall at 1 of texts.
    - retrieval_map: mean average precision: images are ranked by similarity to a text, its own images are relevant, and
      the average precision is averaged over texts.

    Picture: similarity.png, the mean similarity of the images of each text (rows) to each text (columns).
    """
    model, data = evaluation.model, evaluation.dataset
    if not isinstance(model, HasSimilarity):
        return {}
    names = model.split_pairs(data.train)[1].unique(dim=0)
    truth = (model.split_pairs(data.test)[1][:, None] == names).all(2)
    with torch.no_grad():
        texts = names.to(evaluation.device)
        parts = [model.similarity(model.split_pairs(x)[0], texts).cpu() for x in evaluation.batches(data.test)]
    similarity = torch.cat(parts).double()
    evaluation.files["similarity.png"] = matrix(similarity, truth, list(map(word, names)))
    return {"zero_shot_accuracy": accuracy(similarity, truth), "retrieval_map": precision(similarity, truth)}


def accuracy(similarity: Tensor, truth: Tensor) -> Measurement:
    """Return the proportion of images whose most similar text is their own, similarity and `truth` (I, T)."""
    return proportion(truth.gather(1, similarity.argmax(1, keepdim=True)).squeeze(1), "retrieval 1")


def precision(similarity: Tensor, truth: Tensor) -> Measurement:
    """Return the mean average precision of ranking images (I, T) for each text that has any."""
    from sklearn.metrics import average_precision_score

    queries = [t for t in range(truth.shape[1]) if truth[:, t].any()]
    scores = [average_precision_score(truth[:, t].numpy(), similarity[:, t].numpy()) for t in queries]
    return Measurement(value=sum(scores) / len(scores), unit="", better="higher", n=len(scores), impl="retrieval 1")


def matrix(similarity: Tensor, truth: Tensor, names: list[str]) -> bytes:
    """Return a PNG file of the mean similarity of the images of each text (rows) to each text (columns), (I, T)."""
    from matplotlib.figure import Figure

    images = truth.T.double() / truth.sum(0).clamp(min=1)[:, None]
    figure = Figure(figsize=(PIXELS / 75, PIXELS / 75), dpi=75, layout="tight")
    plot, ticks = figure.add_subplot(), range(len(names))
    image = plot.imshow((images @ similarity).numpy(), cmap="magma")
    plot.set(xlabel="text", ylabel="images of", yticks=ticks, yticklabels=names)
    plot.set_xticks(ticks, names, rotation=90)
    figure.colorbar(image, label="mean similarity", fraction=0.046)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def word(text: Tensor) -> str:
    """Return a text (letters,) of 1..26, a to z, and 0, blank, as letters."""
    return "".join(" abcdefghijklmnopqrstuvwxyz"[letter] for letter in text.tolist()).strip()


retrieval = Metric(measure)
