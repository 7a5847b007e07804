"""From a trained supernet and latency tables to networks that meet their budgets when measured."""

from __future__ import annotations

from nas.delivery.network import take_examples
from nas.delivery.plan import Plan, Term, published_terms
from nas.delivery.searching import search_run
from nas.delivery.slimming import slim_run

__all__ = ["Plan", "Term", "published_terms", "search_run", "slim_run", "take_examples"]
