"""From a trained supernet and latency tables to networks that meet their budgets when measured."""
