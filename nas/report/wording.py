"""How the page words things: bounds, costs, what tells two networks apart, and who won."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nas.report.tables import count, share
from nas.slim.result import FinalNetwork, SearchReport
from nas.space import IDENTITY, named_choice

LATENCY = "latency_ms"


def latencies(costs: Mapping[str, float]) -> list[str]:
    """The costs that are latencies: one for each table."""
    return [name for name in costs if name.partition("[")[0] == LATENCY]


def first_latency(report: SearchReport) -> str:
    """The latency that the frontier is drawn against: the first bounded one, or the first."""
    bounded = [name for target in report.targets for name in latencies(target)]
    known = [name for network in report.networks for name in latencies(network.costs)]
    return (bounded + known + [LATENCY])[0]


def table_of(name: str) -> str:
    """The table that a latency is named after, nothing where there is only one."""
    return name.rstrip("]").partition("[")[2]


def cost_text(name: str, value: float) -> str:
    """``0.220 ms``, ``0.220 ms (cpu)``, ``855.02 k parameters``."""
    if latencies({name: value}):
        return f"{value:.3f} ms{_in_brackets(table_of(name))}"
    return f"{count(value)} {'parameters' if name == 'params' else 'MACs'}"


def bound_text(name: str, bound: float) -> str:
    """``2 ms``, ``2 ms (cpu)``, ``3 M parameters``: a bound as the user gave it."""
    if latencies({name: bound}):
        return f"{bound:g} ms{_in_brackets(table_of(name))}"
    return cost_text(name, bound).replace(".00 ", " ")


def target_text(target: Mapping[str, float] | None) -> str:
    """``at most 2 ms and 3 M parameters``; nothing for a network without a target."""
    bounds = [bound_text(name, bound) for name, bound in (target or {}).items()]
    return "at most " + " and ".join(bounds) if bounds else ""


def differences(report: SearchReport, assignment: Sequence[int]) -> list[tuple[str, list[str]]]:
    """What a network has in place of the largest's options: a group for each stage.

    Of a slot that is left out it names nothing else: the slot's other choices mean nothing.
    """
    chosen = [
        (named_choice(name, options), options[index])
        for name, options, index in zip(report.choices, report.options, assignment, strict=True)
    ]
    left_out = {
        choice.slot for choice, option in chosen if choice.is_optional and option == IDENTITY
    }
    groups: dict[str, list[str]] = {}
    for choice, option in chosen:
        if choice.slot in left_out:
            text = f"no {choice.module}" if choice.role == "kind" else ""
        else:
            text = "" if option == choice.options[-1] else f"{choice.label} {option}".strip()
        if text:
            groups.setdefault(choice.part, []).append(text)
    return list(groups.items())


def fits(network: FinalNetwork) -> bool:
    """Whether it meets its target as predicted, and as measured where it was."""
    measured = {it.cost: it.measured for it in network.latencies}
    return all(
        measured.get(name, network.costs[name]) <= bound
        for name, bound in (network.target or {}).items()
    )


def verdicts(report: SearchReport) -> Iterator[tuple[str, str, str]]:
    """For each target: its text, who is the most accurate within it, and how the others did.

    Test images decide where all were judged on them, else the search slice.
    """
    for target in report.targets:
        rivals = [it for it in report.networks if it.target == target]
        within = [it for it in rivals if fits(it)]
        if not within:
            yield target_text(target), "", "no network of this report meets the target"
            continue
        tests = {it.name: it.test_accuracy for it in within if it.test_accuracy is not None}
        judged = len(tests) == len(within)
        hits = tests if judged else {it.name: it.search_accuracy for it in within}
        best = max(hits.values())
        winners = [name for name, accuracy in hits.items() if accuracy == best]
        others = ", ".join(
            f"{name} {share(accuracy)}"
            for name, accuracy in sorted(hits.items(), key=lambda it: -it[1])
            if name not in winners
        )
        missed = [f"{it.name} misses the target" for it in rivals if it not in within]
        text = f"{share(best)} of {'the test images' if judged else 'the search slice'}"
        yield (
            target_text(target),
            " and ".join(winners),
            "; ".join(it for it in (text, others, *missed) if it),
        )


def _in_brackets(table: str) -> str:
    return f" ({table})" if table else ""
