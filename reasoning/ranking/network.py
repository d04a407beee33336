"""A small neural network that corrects the prior's likelihoods, learned from confirmed answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Floats, Ints, Singles

from .features import softmax

NEURONS: Final = 12  # 24 are no better on WordNet, and each is evaluated for every candidate
LARGEST_CORRECTION: Final = 30.0  # logits; beyond this, the network alone would decide, or the prior
_EPOCHS: Final = 15  # passes over the questions; more of them overfit
_BATCH: Final = 32  # questions of one step of Adam: a usual size
_STEP: Final = 4e-3  # first step size of Adam, for standardized inputs
_LAST_STEP: Final = 1e-4  # step size at the end, small enough to settle
_DECAY: Final = 1e-4  # pull of the weights towards 0 in each step, for inputs that tell nothing
_MOMENTS: Final = (0.9, 0.99)  # memory of Adam's two moments; the usual 0.999 is too long for so few steps
_RIVALS: Final = 25  # best candidates of a question to train on, and as many others: all take much longer


@dataclass(frozen=True)
class Samples:
    """Questions with confirmed answers.

    For c candidates: `features` float32 (c, f); `question` (c,), from 0 to n - 1, ascending; `is_answer`
    (c,); and `likelihood` (c,) by the prior. For n questions: `details` (n, g); `weights` (n,); `roles` (n,),
    who confirmed the answer; and `names_answer` (n,), the output of the prior's gate. If the answer of a
    question is not among its candidates, it counts as not found.
    """

    features: Singles
    question: Ints
    is_answer: npt.NDArray[np.bool_]
    likelihood: Floats
    details: Floats
    weights: Floats
    roles: npt.NDArray[np.str_]
    names_answer: Floats

    def __len__(self) -> int:
        return len(self.details)

    def take(self, chosen: npt.NDArray[np.bool_]) -> Samples:
        """Return the questions of a mask (n,)."""
        number = np.cumsum(chosen) - 1
        rows = chosen[self.question]
        return Samples(
            self.features[rows],
            number[self.question[rows]],
            self.is_answer[rows],
            self.likelihood[rows],
            self.details[chosen],
            self.weights[chosen],
            self.roles[chosen],
            self.names_answer[chosen],
        )


@dataclass(frozen=True)
class Network:
    """Corrections of the prior: the score of a candidate is its share of likelihood * exp(correction).

    correction = features . linear + sum over h neurons of
    outputs * tanh(biases + features . hidden + details . context), within +-LARGEST_CORRECTION.
    `hidden` (h, f), `context` (h, g), `biases` (h,), `outputs` (h,), `linear` (f,).
    """

    hidden: Floats
    context: Floats
    biases: Floats
    outputs: Floats
    linear: Floats

    def correct(self, features: Singles | Floats, question: Ints, details: Floats) -> Floats:
        """Return the correction (c,) of each candidate; shapes as in `Samples`."""
        biases = self.biases + details @ self.context.T
        raised = np.tanh(biases[question] + features @ self.hidden.T)
        correction = raised @ self.outputs + features @ self.linear
        return np.asarray(np.clip(correction, -LARGEST_CORRECTION, LARGEST_CORRECTION))

    def score(self, samples: Samples) -> Floats:
        """Return the score (c,) of each candidate, 0 to 1."""
        correction = self.correct(samples.features, samples.question, samples.details)
        return softmax(log_likelihood(samples.likelihood) + correction, samples.question)

    def to_array(self) -> Floats:
        """Return all weights in one array, as the database holds them: neuron by neuron, then `linear`."""
        neurons = [self.hidden, self.context, self.biases[:, None], self.outputs[:, None]]
        return np.concatenate([np.concatenate(neurons, axis=1).ravel(), self.linear])

    @classmethod
    def from_array(cls, weights: Sequence[float] | Floats, features: int, details: int) -> Self:
        """Return the network of an array of `to_array`; raises ValueError for another length."""
        array = np.asarray(weights, dtype=np.float64)
        count, rest = divmod(len(array) - features, features + details + 2)
        if count < 1 or rest or not np.isfinite(array).all():
            raise ValueError(f"{len(array)} weights are no network of {features} features")
        rows = array[: len(array) - features].reshape(count, -1)
        hidden, context, biases, outputs = np.split(
            rows, [features, features + details, features + details + 1], axis=1
        )
        return cls(hidden, context, biases[:, 0], outputs[:, 0], array[len(array) - features :])


def fit_network(samples: Samples, seed: int = 0, neurons: int = NEURONS) -> Network:
    """Fit a network by the cross-entropy of each question's answers among its candidates, with Adam.

    It is trained on all of the candidates that the prior ranks first, and on a sample of the others, which
    are weighted so that they stand for the ones left out.
    """
    rng = np.random.default_rng(seed)
    rows, drawn = _draw_rivals(samples, rng)
    features, question = samples.features[rows].astype(np.float64), samples.question[rows]
    offset = log_likelihood(samples.likelihood[rows]) - np.log(drawn)
    share = _answer_shares(samples)[rows]
    inputs, details = _Scale.of(features), _Scale.of(samples.details)
    x = np.concatenate([inputs(features), details(samples.details)[question]], axis=1).astype(np.float32)
    width, count = x.shape[1], features.shape[1]
    parameters = [
        rng.normal(0, 1 / np.sqrt(width), (width, neurons)),
        np.zeros(neurons),
        np.zeros(neurons),  # the fit starts at the prior
        np.zeros(count),
    ]
    _descend(parameters, x, question, offset, share, samples.weights, rng)
    weights, biases, outputs, linear = parameters
    hidden, context = (
        (weights[:count] / inputs.spread[:, None]).T,
        (weights[count:] / details.spread[:, None]).T,
    )
    return Network(
        hidden=hidden,
        context=context,
        biases=biases - hidden @ inputs.mean - context @ details.mean,
        outputs=outputs,
        linear=linear / inputs.spread,
    )


@dataclass(frozen=True)
class _Scale:
    """Standardizes columns; those that do not vary are only centred."""

    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, values: Floats) -> Self:
        spread = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(spread > 1e-6, spread, 1.0))  # smaller: rounding of float32

    def __call__(self, values: Floats) -> Floats:
        return (values - self.mean) / self.spread


def _descend(
    parameters: list[Floats],
    x: Singles,
    question: Ints,
    offset: Floats,
    share: Floats,
    weights: Floats,
    rng: np.random.Generator,
) -> None:
    """Change the parameters in place: input weights, biases, outputs and linear weights."""
    count = len(parameters[3])
    first = np.searchsorted(question, np.arange(len(weights) + 1))
    trained = np.flatnonzero(np.bincount(question, weights=share, minlength=len(weights)) > 0)
    if not len(trained):
        return
    moments = [(np.zeros_like(each), np.zeros_like(each)) for each in parameters]
    steps = 0
    for epoch in range(_EPOCHS):
        size = _LAST_STEP + _STEP * 0.5 * (1 + np.cos(np.pi * epoch / _EPOCHS))
        for batch in np.array_split(rng.permutation(trained), -(-len(trained) // _BATCH)):
            lengths = first[batch + 1] - first[batch]
            number = np.repeat(np.arange(len(batch)), lengths)
            rows = (
                np.arange(len(number))
                - np.repeat(np.cumsum(lengths) - lengths, lengths)
                + first[batch][number]
            )
            inputs, parts = x[rows], parameters
            raised = np.tanh(inputs @ parts[0] + parts[1])
            logits = raised @ parts[2] + inputs[:, :count] @ parts[3] + offset[rows]
            error = (softmax(logits, number) - share[rows]) * weights[batch][number] / len(batch)
            back = np.outer(error, parts[2]) * (1 - raised**2)
            slopes = (
                inputs.T @ back + _DECAY * parts[0],
                back.sum(axis=0),
                raised.T @ error,
                inputs[:, :count].T @ error + _DECAY * parts[3],
            )
            steps += 1
            for part, slope, (mean, square) in zip(parameters, slopes, moments, strict=True):
                mean *= _MOMENTS[0]
                mean += (1 - _MOMENTS[0]) * slope
                square *= _MOMENTS[1]
                square += (1 - _MOMENTS[1]) * slope**2
                steady = np.sqrt(square / (1 - _MOMENTS[1] ** steps)) + 1e-8  # never divides by 0
                part -= size * mean / (1 - _MOMENTS[0] ** steps) / steady


def _draw_rivals(samples: Samples, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Return rows of candidates to train on, ascending, and the chance that each had of being drawn."""
    order = np.lexsort((-samples.likelihood, samples.question))
    rank = np.empty(len(order), dtype=np.int64)
    count = np.bincount(samples.question, minlength=len(samples))
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    others = np.maximum(count - _RIVALS, 1)[samples.question]
    chance = np.where(samples.is_answer | (rank < _RIVALS), 1.0, np.minimum(1.0, _RIVALS / others))
    rows = np.flatnonzero(rng.random(len(chance)) < chance)
    return rows, chance[rows]


def _answer_shares(samples: Samples) -> Floats:
    """Return 1 / the number of its question's answers for each answer, else 0."""
    answers = np.bincount(samples.question, weights=samples.is_answer, minlength=len(samples))
    return np.asarray(samples.is_answer / np.maximum(answers, 1)[samples.question])


def log_likelihood(likelihood: Floats) -> Floats:
    """Return the logarithms of likelihoods, none of them below -LARGEST_CORRECTION."""
    return np.log(np.maximum(likelihood, np.exp(-LARGEST_CORRECTION)))
