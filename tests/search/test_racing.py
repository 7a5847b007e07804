import numpy as np
import pytest

from nas.search import run_race
from nas.search.walk import drop_per_gain

IMAGES = 1600


def table(seed, candidates=8):
    """Hits of a current network and of candidates that disagree with it where it is uncertain."""
    rng = np.random.default_rng(seed)
    certainty = rng.exponential(size=IMAGES)
    hits = rng.random(IMAGES) < 0.7
    losing, winning = rng.uniform(0.05, 0.4, (2, candidates, 1)) * np.exp(-4 * certainty)
    chances = np.where(hits, losing, winning)
    flips = rng.random((candidates, IMAGES)) < chances
    gains = rng.uniform(1, 3, candidates)
    return hits, certainty, hits ^ flips, lambda drops: drop_per_gain(drops, gains)


def raced(seed, **options):
    """The accuracies of a race, how much of the table it saw, and the exact accuracies."""
    hits, certainty, truth, rank = table(seed)
    seen = np.zeros(truth.shape, int)

    def look(candidate, positions, is_finalist):
        seen[candidate, positions] += 1
        return truth[candidate, positions]

    rng = np.random.default_rng(seed)
    found = run_race(look, len(truth), hits, certainty, rank, rng=rng, **options)
    assert seen.max() == 1
    return np.array(found), seen, truth.mean(axis=1), lambda it: rank(hits.mean() - it)


@pytest.mark.parametrize("confidence", [0.5, 0.98])
def test_the_true_best_is_dropped_no_more_often_than_the_level_allows(confidence):
    # 100 races: beyond the bound only with a chance of about 1 % if the level holds exactly
    wrong = 0
    for seed in range(100):
        found, _, exact, rank = raced(seed, confidence=confidence)
        wrong += rank(exact)[rank(found).argmin()] > rank(exact).min()
    allowed = 100 * (1 - confidence)
    assert wrong <= allowed + 2.4 * np.sqrt(allowed)


def test_few_images_are_looked_at():
    shares = [raced(seed)[1].mean() for seed in range(20)]
    assert np.mean(shares) < 0.5


def test_less_confidence_looks_at_fewer_images():
    high, low = (
        np.mean([raced(seed, confidence=level)[1].mean() for seed in range(10)])
        for level in (0.98, 0.5)
    )
    assert low < high


def test_who_saw_all_images_has_the_exact_accuracy_and_the_winner_has():
    for seed in range(10):
        found, seen, exact, rank = raced(seed)
        full = seen.all(axis=1)
        assert full[rank(found).argmin()]
        assert found[full].tolist() == exact[full].tolist()


def test_only_those_are_finalists_that_see_all_images():
    for seed in range(10):
        hits, certainty, truth, rank = table(seed)
        seen, finalists = np.zeros(truth.shape, bool), set()

        def look(candidate, positions, is_finalist, truth=truth, seen=seen, finalists=finalists):
            seen[candidate, positions] = True
            if is_finalist:
                finalists.add(candidate)
            return truth[candidate, positions]

        rng = np.random.default_rng(seed)
        found = run_race(look, len(truth), hits, certainty, rank, rng=rng)
        assert finalists <= set(np.flatnonzero(seen.all(axis=1)))
        assert int(rank(hits.mean() - np.array(found)).argmin()) in finalists or seen.all()


def test_estimates_of_the_dropped_are_near():
    errors = []
    for seed in range(20):
        found, seen, exact, _ = raced(seed)
        errors += (found - exact)[~seen.all(axis=1)].tolist()
    # half of the 4 % that a part of 128 images would tell alone
    assert 0 < np.sqrt(np.mean(np.square(errors))) < 0.02
    assert abs(np.mean(errors)) < 0.01


def test_one_candidate_sees_everything():
    hits = np.arange(100) % 3 > 0
    found = run_race(
        lambda _, part, is_finalist: part % 2 == 0, 1, hits, np.ones(100), lambda it: it,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found == [0.5]


def test_a_handful_of_images_is_enough():
    hits = np.array([True, False, True])
    found = run_race(
        lambda candidate, part, is_finalist: part < candidate, 3, hits, np.ones(3), lambda it: it,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found == [0.0, 1 / 3, 2 / 3]


def test_same_seed_same_race():
    assert raced(3)[0].tolist() == raced(3)[0].tolist()


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(
        ValueError, match=rf"^race: confidence must be in \(0, 1\), got {confidence}$"
    ):
        raced(0, confidence=confidence)
