"""Parallel runs of one preset on Ray Tune: a grid of values, early stopping of bad runs, one table and plot.

A sweep's folder has `trials/NAME`, each a run folder that `python -m training train` can resume,
`results.csv`, `results.txt` and `results.png`, and Ray's own notes. Ray is an extra: `pip install .[sweep]`.
"""
