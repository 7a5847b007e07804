import pytest

from nas.search import mobile_efficiency_score

PUBLISHED = {  # parameters, iPhone 12 ms, score: EfficientFormer V2, table 1
    "S0": (3.5e6, 0.9, 102.9),
    "S1": (6.1e6, 1.1, 63.8),
    "S2": (12.6e6, 1.6, 30.5),
    "L": (26.1e6, 2.7, 12.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores(name):
    params, latency_ms, score = PUBLISHED[name]
    found = mobile_efficiency_score({"params": params, "latency_ms": latency_ms})
    assert found == pytest.approx(score, abs=0.05)


def test_units_only_rescale():
    fast, slow = {"params": 1e6, "latency_ms": 1.0}, {"params": 2e6, "latency_ms": 3.0}
    other = {"params": 5.0, "latency_ms": 7.0}
    assert mobile_efficiency_score(fast) / mobile_efficiency_score(slow) == pytest.approx(
        mobile_efficiency_score(fast, units=other) / mobile_efficiency_score(slow, units=other)
    )


def test_exponents_choose_what_counts():
    measures = {"params": 4.0, "latency_ms": 9.0, "energy": 100.0}
    found = mobile_efficiency_score(
        measures, units={"params": 1, "energy": 1}, exponents={"params": 0.5, "energy": 0.5}
    )
    assert found == pytest.approx(100 / 2 / 10)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_measures_are_refused(value):
    with pytest.raises(ValueError, match="latency_ms must be positive"):
        mobile_efficiency_score({"params": 1.0, "latency_ms": value})


def test_missing_measures_and_units_are_named():
    with pytest.raises(ValueError, match="params must be positive, got None"):
        mobile_efficiency_score({"latency_ms": 1.0})
    with pytest.raises(ValueError, match="joule has no unit"):
        mobile_efficiency_score({"joule": 1.0}, exponents={"joule": 1.0})
