"""Searches of a trained supernet, closed by measurements on the device.

plan      bounds and how to search, as a value and as options of the command line
methods   slimming, uniform scaling, random search, evolution, a shared study
delivery  candidates are evaluated, exported and measured until they meet a target
search    ``slim_run`` and ``search_run``: from a run and its tables to a result
result    the result as a value, and its files
journal   each evaluation and measurement, from which a stopped search resumes
"""
