"""Plans are arithmetic on facts: with made-up rates the right answer is known beforehand."""

import math

import pytest

from nas.errors import UserError
from nas.firstrun.estimate import (
    EVALUATION_SECONDS,
    EVALUATION_SHARE,
    STAGES,
    START_SECONDS,
    UNIFORM_NETWORKS,
    Effort,
    estimate,
    training_seconds,
)
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.schedule import (
    DEFAULT_MINUTES,
    ENOUGH,
    LEAST_EPOCHS,
    MARGIN,
    MOST_ALONE,
    MOST_EPOCHS,
    Aim,
    effort_of,
    fitting_share,
    make_schedule,
    reachable,
    search_share,
    suggested_target,
)

DATA = DataFacts(
    classes=6, train=1600, search=400, test=500, search_share=0.2, has_test=False, side=256,
    seconds=0.002,
)  # fmt: skip


def place(name="cheap", factor=1.0, **changes):
    """A space whose networks cost ``factor`` times as much as those of another one."""
    facts = {
        "word": name,
        "name": name,
        "input_size": 64,
        "layers": 85,
        "sandwich_seconds": 0.01 * factor,
        "largest_seconds": 0.003 * factor,
        "forward_seconds": (0.001 * factor, 0.0004 * factor, 0.0001 * factor),
        "visit_seconds": 0.03,
        "largest_ms": 0.5 * factor,
        "smallest_ms": 0.08 * factor,
    }
    return SpaceFacts.model_validate({**facts, **changes})


def total(schedule):
    return sum(schedule.seconds.values())


def test_every_stage_has_an_estimate():
    found = estimate(DATA, place(), Effort(epochs=1, evaluations=1, retraining_epochs=1), 0.3)
    assert list(found) == list(STAGES)
    assert all(seconds > 0 for seconds in found.values())


def test_an_epoch_costs_its_steps_and_the_evaluation_of_three_networks():
    one, two = (
        training_seconds(DATA, place(), Effort(epochs=n, evaluations=1, retraining_epochs=1))
        for n in (1, 2)
    )
    steps, evaluation = 1600 * 0.01, (1000 + 400) * (0.001 + 0.0004 + 0.0001)
    assert two - one == pytest.approx(steps + evaluation)
    assert one - (two - one) == pytest.approx(START_SECONDS + 2500 * 0.002)  # images are read once


def test_a_reference_is_trained_at_the_rate_of_the_largest_network():
    without, with_one = (
        training_seconds(
            DATA,
            place(),
            Effort(epochs=1, evaluations=1, retraining_epochs=1, reference_epochs=n),
        )
        for n in (0, 10)
    )
    assert with_one - without == pytest.approx(10 * (1600 * 0.003 + 400 * 0.001))


def test_evaluations_are_of_three_methods_and_of_scaled_networks():
    few, many = (
        estimate(DATA, place(), Effort(epochs=1, evaluations=n, retraining_epochs=1), 0.25)
        for n in (10, 110)
    )
    half = 0.25 / 0.5  # of the largest network
    one = EVALUATION_SHARE * 1400 * half * 0.001 + EVALUATION_SECONDS
    assert many["slimming"] - few["slimming"] == pytest.approx(300 * one)
    assert few["slimming"] > (UNIFORM_NETWORKS + 30) * one


def test_images_that_do_not_fit_into_memory_are_decoded_in_every_epoch():
    large = DATA.model_copy(update={"train": 600_000})
    one, two = (
        training_seconds(large, place(), Effort(epochs=n, evaluations=1, retraining_epochs=1))
        for n in (1, 2)
    )
    evaluation = 1400 * (0.001 + 0.0004 + 0.0001)
    assert two - one == pytest.approx(600_000 * (0.01 + 0.002) + evaluation)


@pytest.mark.parametrize("minutes", [5, 8, 15, 40])
def test_a_plan_fills_the_minutes_and_not_more(minutes):
    found = make_schedule(DATA, [place()], Aim(0.3), minutes=minutes)
    assert total(found) <= MARGIN * 60 * minutes
    effort = found.effort.model_copy(
        update={
            "epochs": math.ceil(1.3 * found.effort.epochs),
            "retraining_epochs": math.ceil(1.3 * found.effort.retraining_epochs),
        }
    )
    more = estimate(DATA, place(), effort, 0.3)
    assert sum(more.values()) > MARGIN * 60 * minutes


@pytest.mark.parametrize("spent", [0.0, 45.0, 120.0])
def test_what_planning_took_is_a_part_of_the_minutes(spent):
    found = make_schedule(DATA, [place()], Aim(0.3), minutes=8, spent=spent)
    assert found.planning_seconds == spent
    assert found.total == total(found) + spent
    assert total(found) <= MARGIN * (8 * 60 - spent)
    later = make_schedule(DATA, [place()], Aim(0.3), minutes=8 - spent / 60)
    assert found.effort == later.effort


def test_without_minutes_small_data_get_all_that_is_wanted_and_large_ones_an_hour():
    quick = place(factor=0.01)
    found = make_schedule(DATA, [quick], Aim(), minutes=None)
    assert (found.effort.epochs, found.effort.retraining_epochs) == (MOST_EPOCHS, MOST_ALONE)
    large = DATA.model_copy(update={"train": 60_000})
    assert total(make_schedule(large, [place()], Aim(), minutes=None)) <= (DEFAULT_MINUTES * 60)


def test_without_minutes_what_needs_more_than_an_hour_is_planned_all_the_same():
    slow = place(factor=300.0)
    found = make_schedule(DATA, [slow], Aim(), minutes=None)
    assert found.effort.epochs == LEAST_EPOCHS
    assert total(found) > DEFAULT_MINUTES * 60


def test_the_dearest_space_that_gets_enough_training_is_taken():
    cheap, dear, dearest = place("cheap"), place("dear", 4.0), place("dearest", 40.0)
    places = [cheap, dear, dearest]

    def chosen(minutes):
        return make_schedule(DATA, places, Aim(), minutes=minutes).place

    assert [chosen(5), chosen(40), chosen(600)] == places
    target = suggested_target(dear)
    assert (fitting_share(DATA, dear, Aim(target), 5 * 60) or 0) < ENOUGH
    assert (fitting_share(DATA, dear, Aim(target), 40 * 60) or 0) >= ENOUGH


def test_too_few_minutes_are_told_the_least_that_would_do():
    with pytest.raises(UserError, match=r"^--minutes 1: too few; the least that would do is (\d+) "
                                        r"\(cheap, 64 px, 3 epochs on 1,600 images\)$") as caught:  # fmt: skip
        make_schedule(DATA, [place(), place("dear", 9.0)], Aim(), minutes=1)
    least = int(str(caught.value).split(" is ")[1].split()[0])
    assert make_schedule(DATA, [place()], Aim(), minutes=least).place == place()
    with pytest.raises(UserError, match="too few"):
        make_schedule(DATA, [place()], Aim(), minutes=least - 1)
    with pytest.raises(UserError, match=f"the least that would do is {least + 2} "):
        make_schedule(DATA, [place()], Aim(), minutes=least, spent=120.0)


def test_a_space_that_leaves_nothing_to_search_is_passed_by():
    slow = place("slow", 4.0)  # its smallest network takes 0.32 ms
    assert reachable([place(), slow], 0.35) == [place()]
    assert reachable([place(), slow], 0.5) == [place(), slow]
    assert reachable([slow], 0.35) == [slow]


def test_a_target_below_every_network_is_told_the_least_that_can_be_reached():
    with pytest.raises(UserError, match=r"^--target-ms 0.01: .* about 0.08 ms \(cheap, 64 px\)$"):
        make_schedule(DATA, [place("dear", 9.0), place()], Aim(0.01), minutes=None)


def test_the_target_is_half_of_the_largest_network_and_above_the_smallest():
    assert suggested_target(place()) == 0.25
    assert suggested_target(place(smallest_ms=0.4)) == 0.52
    assert suggested_target(place(largest_ms=0.51), 0.6) == 0.31


def test_where_every_network_is_within_the_target_the_largest_is_what_is_retrained():
    effort = Effort(epochs=1, evaluations=50, retraining_epochs=10)
    within, half = (estimate(DATA, place(), effort, target) for target in (9.0, 0.25))
    assert within["retraining"] > 1.5 * half["retraining"]
    assert within["slimming"] < half["slimming"]


def test_pretrained_weights_need_fewer_epochs_and_a_reference():
    fresh, tuned = (effort_of(1.0, DATA, Aim(None, it)) for it in (False, True))
    assert fresh.reference_epochs == 0
    assert 0 < tuned.reference_epochs <= 12
    assert tuned.epochs < fresh.epochs


def test_few_images_give_a_larger_share_to_the_search():
    assert search_share(40_000) == 0.1
    assert search_share(2_000) == 0.2
    assert search_share(100) == 0.25


def test_a_target_that_nobody_named_follows_the_table():
    made = make_schedule(DATA, [place()], Aim(), minutes=None)
    assert (made.target_share, made.target_ms) == (0.5, 0.25)
    known = made.with_latencies(largest_ms=0.8, smallest_ms=0.1)
    assert (known.target_ms, known.place.largest_ms) == (0.4, 0.8)
    assert made.with_latencies(largest_ms=0.8, smallest_ms=0.5).target_ms == 0.65
    assert "target: 0.4 ms, where the largest network takes 0.8" in known.target_line


def test_a_target_that_was_asked_for_stays():
    made = make_schedule(DATA, [place()], Aim(0.3), minutes=None)
    assert made.target_share is None
    assert made.with_latencies(largest_ms=0.8, smallest_ms=0.1).target_ms == 0.3
