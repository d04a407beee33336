"""The weights of a ranking, and what it sees of questions."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.reasoning.ranking.features import (
    FEATURES,
    LENGTH,
    PRIOR,
    SHAPE,
    SIGNATURE,
    Ranking,
    search_values,
    shape_of,
    softmax,
)
from vectuned.reasoning.store.words import Word


def test_a_ranking_survives_its_array() -> None:
    again = Ranking.from_array(PRIOR.to_array())
    assert PRIOR.to_array().shape == (LENGTH,)
    for name in ("gate", "named", "described"):
        np.testing.assert_array_equal(getattr(again, name), getattr(PRIOR, name))


@pytest.mark.parametrize("weights", [[], [0.0] * (LENGTH - 1), [0.0] * (LENGTH + 1), [np.nan] * LENGTH])
def test_a_ranking_of_another_length_or_without_numbers_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=f"a ranking has {LENGTH} finite weights"):
        Ranking.from_array(weights)


def test_shares_add_up_to_one_for_each_question_and_survive_extreme_logits() -> None:
    question = np.array([0, 0, 0, 2, 2])
    shares = softmax(np.array([1e4, 1e4, -1e4, 0.0, np.log(3)]), question)
    np.testing.assert_allclose(shares, [0.5, 0.5, 0, 0.25, 0.75], atol=1e-12)
    assert softmax(np.zeros(0), np.zeros(0, dtype=np.int64)).shape == (0,)


def test_the_score_is_the_mean_of_both_shares_weighted_by_the_gate() -> None:
    features = np.zeros((2, len(FEATURES)))
    features[0, FEATURES.index("name_match")] = 1  # named
    features[1, FEATURES.index("similarity")] = 1  # described
    question = np.zeros(2, dtype=np.int64)
    named = PRIOR.score(features, question, np.ones(1))
    described = PRIOR.score(features, question, np.zeros(1))
    assert named[0] > 0.99
    assert described[1] > 0.9
    np.testing.assert_allclose(
        PRIOR.score(features, question, np.full(1, 0.25)), 0.25 * named + 0.75 * described
    )


def test_the_prior_tells_descriptions_from_questions_that_name_their_answer() -> None:
    words = [Word(str(number), 5.0) for number in range(4)]
    description = [0.6, 0.1, 0.1, 0.5, *shape_of("an instrument for measuring heat, by a rod", words)]
    name = [0.8, 0.3, 1.0, 1.0, *shape_of("violin strings", words[:2])]
    assert len(name) == len(SIGNATURE) + len(SHAPE)
    likely = PRIOR.open_gate(np.array([description, name]))
    assert likely[0] < 0.3
    assert likely[1] > 0.9


def test_the_rarest_words_are_looked_up_and_weights_add_up_to_one() -> None:
    words = tuple(Word(f"w'{number}", float(number)) for number in range(1, 10))
    values = search_values(words, np.zeros(3, dtype=np.float32))
    assert values["rare_weights"] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert values["rare"][0] == "'w''9'"  # type: ignore[index]
    weights = values["weights"]
    assert isinstance(weights, list)
    assert np.isclose(sum(weights), 1)
    nothing = search_values((), np.zeros(3, dtype=np.float32))
    assert (nothing["lexemes"], nothing["words"], nothing["rare"]) == ([], "", [])
    assert shape_of("", ()) == [1.0, 0.0, 0.0]
