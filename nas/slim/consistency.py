"""What parts of a search's result must have in common, where each alone is valid.

A page that is made of a result relies on it; a file may have been edited, mixed up or cut short.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from nas.parsing import Location
from nas.search.problem import Costs
from nas.space import Assignment, named_choice

if TYPE_CHECKING:
    from nas.slim.result import SearchResult

Complaint = tuple[Location, str]


def complaints(result: SearchResult, counts: Collection[str]) -> Iterator[Complaint]:
    """Each part that cannot be of this search, and why; ``counts`` are costs that all have."""
    yield from _of_choices(result)
    yield from _of_costs(result, counts)
    for number, step in enumerate(result.trace):
        if not 0 <= step.taken < len(step.actions):
            yield ("trace", number, "taken"), f"must be the index of an action, got {step.taken}"
    for number, network in enumerate(result.networks):
        states = {latency.state for latency in network.latencies}
        if states and network.state not in states:
            yield ("networks", number, "latencies"), f"none of them is {network.state}"


def _of_choices(result: SearchResult) -> Iterator[Complaint]:
    """About names and options of choices, and assignments that are none of theirs."""
    choices, options = result.choices, result.options
    if len(choices) != len(options):
        yield ("options",), f"must be those of {len(choices)} choices, got {len(options)}"
        return
    for number, (name, of_choice) in enumerate(zip(choices, options, strict=True)):
        if not of_choice:
            yield ("options", number), "a choice needs at least one option"
        try:
            named_choice(name, of_choice)
        except ValueError as error:
            yield ("choices", number), str(error)
    sizes = [len(of_choice) for of_choice in options]
    for location, one in _assignments(result):
        if not _is_of(one, sizes):
            yield location, f"must have an index below each of {sizes}, got {list(one)}"


def _of_costs(result: SearchResult, counts: Collection[str]) -> Iterator[Complaint]:
    """About networks and targets that have other costs than the first network."""
    names = {*result.networks[0].costs, *counts}
    expected = f"must be of {', '.join(sorted(names))}"
    for location, costs in _costs(result):
        if set(costs) != names:
            yield location, f"{expected}, got {', '.join(sorted(costs)) or 'none'}"
    for number, target in enumerate(result.targets):
        if not names.issuperset(target):
            yield ("targets", number), f"{expected}, got {', '.join(target)}"
    for number, rival in enumerate(result.rivals):
        if not names.issuperset(rival.costs) or not set(counts).issubset(rival.costs):
            yield ("rivals", number, "costs"), f"{expected}, got {', '.join(sorted(rival.costs))}"


def _is_of(assignment: Assignment, sizes: Sequence[int]) -> bool:
    """Whether an assignment has the index of an option for each choice."""
    return len(assignment) == len(sizes) and all(
        0 <= index < size for index, size in zip(assignment, sizes, strict=True)
    )


def _assignments(result: SearchResult) -> Iterator[tuple[Location, Assignment]]:
    for number, method in enumerate(result.methods):
        for index, one in enumerate(method.evaluated):
            yield ("methods", number, "evaluated", index, "assignment"), one.assignment
    for number, network in enumerate(result.networks):
        yield ("networks", number, "assignment"), network.assignment
    for number, assignment in enumerate(result.walk):
        yield ("walk", number), assignment


def _costs(result: SearchResult) -> Iterator[tuple[Location, Costs]]:
    """The costs of all networks of the search itself."""
    for number, method in enumerate(result.methods):
        for index, one in enumerate(method.evaluated):
            yield ("methods", number, "evaluated", index, "costs"), one.costs
    for number, network in enumerate(result.networks):
        yield ("networks", number, "costs"), network.costs
    for number, step in enumerate(result.trace):
        yield ("trace", number, "costs"), step.costs
        for index, action in enumerate(step.actions):
            yield ("trace", number, "actions", index, "costs"), action.costs
