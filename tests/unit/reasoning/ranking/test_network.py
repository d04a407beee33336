"""The network that corrects the prior, and its proof on questions that it was not learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vectuned.reasoning.ranking.learner import balance_roles, learn_ranking, reciprocal_ranks
from vectuned.reasoning.ranking.network import LARGEST_CORRECTION, Network, Samples, fit_network

CANDIDATES = 20  # of each question


def questions(count: int, *, seed: int, telling: bool = True) -> Samples:
    """Make questions whose answers have a high second feature, which does not influence the likelihood."""
    rng = np.random.default_rng(seed)
    question = np.repeat(np.arange(count), CANDIDATES)
    features = rng.normal(size=(count * CANDIDATES, 3)).astype(np.float32)
    is_answer = np.zeros(len(question), dtype=bool)
    is_answer[np.arange(count) * CANDIDATES + rng.integers(CANDIDATES, size=count)] = True
    if telling:
        features[is_answer, 1] += 3
    likelihood = rng.random(len(question))
    likelihood /= np.bincount(question, weights=likelihood)[question]
    return Samples(
        features,
        question,
        is_answer,
        likelihood,
        rng.normal(size=(count, 2)),
        np.ones(count),
        np.full(count, "anna"),
        np.where(np.arange(count) % 2 == 0, 0.9, 0.1),
    )


def mean_rank(samples: Samples, scores: np.ndarray) -> float:
    return float(reciprocal_ranks(samples, scores).mean())


def test_network_from_array_equals_the_network_it_was_made_of() -> None:
    network = fit_network(questions(40, seed=1))
    again = Network.from_array(network.to_array(), 3, 2)
    for name in ("hidden", "context", "biases", "outputs", "linear"):
        np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
    for weights in ([], [0.0] * 9, [np.nan] * len(network.to_array())):
        with pytest.raises(ValueError, match="are no network"):
            Network.from_array(weights, 3, 2)


def test_a_network_learns_what_the_likelihood_does_not_know() -> None:
    network, held = fit_network(questions(300, seed=1)), questions(300, seed=2)
    scores = network.score(held)
    assert mean_rank(held, held.likelihood) < 0.4
    assert mean_rank(held, scores) > 0.7
    np.testing.assert_allclose(np.bincount(held.question, weights=scores), 1)
    np.testing.assert_array_equal(fit_network(questions(300, seed=1)).score(held), scores)


def test_corrections_are_bounded_whatever_the_features() -> None:
    network, held = fit_network(questions(100, seed=1)), questions(5, seed=2)
    huge = (held.features * 1e6).astype(np.float32)
    correction = network.correct(huge, held.question, held.details)
    assert np.abs(correction).max() == LARGEST_CORRECTION
    assert np.isfinite(network.score(replace(held, features=huge))).all()


def test_only_what_is_proven_better_is_to_be_served() -> None:
    learned = learn_ranking(questions(400, seed=1))
    assert learned.for_named
    assert learned.for_described
    assert learned.evidence["named"]["questions"] == 200
    assert learned.evidence["named"]["after"] > learned.evidence["named"]["before"]
    few = learn_ranking(questions(20, seed=1))
    assert not few.for_named
    assert not few.for_described


def test_a_prior_better_than_the_learned_network_stays_in_service() -> None:
    samples = questions(400, seed=1, telling=False)
    known = np.where(samples.is_answer, 0.9, 0.1 / (CANDIDATES - 1))
    learned = learn_ranking(replace(samples, likelihood=known))
    assert not learned.for_named
    assert not learned.for_described


def test_each_kind_of_question_needs_its_own_proof() -> None:
    samples = questions(600, seed=1)
    described = samples.names_answer[samples.question] < 0.5
    known = np.where(samples.is_answer, 1 - 1e-9, 1e-10)
    learned = learn_ranking(replace(samples, likelihood=np.where(described, known, samples.likelihood)))
    assert learned.for_named
    assert not learned.for_described


def test_balance_roles_limits_one_role_to_the_weight_of_all_others() -> None:
    roles = np.array(["eve"] * 90 + ["anna"] * 6 + ["bert"] * 4)
    weights = np.ones(100)
    balanced = weights * balance_roles(roles, weights)
    assert np.isclose(balanced[roles == "eve"].sum(), 10)
    assert (balanced[roles != "eve"] == 1).all()
    assert (balance_roles(np.full(5, "eve"), np.ones(5)) == 1).all()


def test_a_ranking_by_which_other_roles_lose_is_not_served() -> None:
    honest, wrong = questions(300, seed=1), questions(300, seed=2)
    # The wrong answers are those with a low second feature.
    low = np.zeros(len(wrong.question), dtype=bool)
    low[np.arange(300) * CANDIDATES + wrong.features[:, 1].reshape(300, -1).argmin(axis=1)] = True
    known = np.where(honest.is_answer, 0.5, 0.5 / (CANDIDATES - 1))
    mixed = Samples(
        np.concatenate([honest.features, wrong.features]),
        np.concatenate([honest.question, wrong.question + 300]),
        np.concatenate([honest.is_answer, low]),
        np.concatenate([known, wrong.likelihood]),
        np.concatenate([honest.details, wrong.details]),
        np.ones(600),
        np.repeat(["anna", "eve"], 300),
        np.tile(honest.names_answer, 2),
    )
    learned = learn_ranking(mixed)
    for kind, served in (("named", learned.for_named), ("described", learned.for_described)):
        honest_proof = learned.evidence[kind]["roles"]["anna"]
        assert not served or honest_proof["after"] >= honest_proof["before"] - 0.02


def test_ties_count_against_the_answer() -> None:
    samples = questions(3, seed=1)
    np.testing.assert_array_equal(reciprocal_ranks(samples, np.ones(len(samples.question))), np.zeros(3))
    alone = replace(samples, is_answer=np.zeros(len(samples.question), dtype=bool))
    np.testing.assert_array_equal(reciprocal_ranks(alone, alone.likelihood), np.zeros(3))
