"""Searches of a trained supernet, closed by measurements on the device.

plan        bounds and how to search, as a value and as options of the command line
candidates  networks, evaluated and exported
methods     slimming, uniform scaling, random search, evolution, a shared study
loop        bounds are corrected until measured networks stand near their targets
finalists   networks timed together, in the unit of a table
delivery    the loop with real devices, and the figures of what it ends with
search      ``slim_run`` and ``search_run``: from a run and its tables to a result
result      the result as a value, and its files
journal     each evaluation and visit, from which a stopped search resumes
"""
