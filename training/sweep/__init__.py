"""Many runs of one preset side by side, on Ray Tune: a grid of values, bad runs stopped early, one table and plot.

A sweep's folder holds `trials/NAME`, each an ordinary run folder that `python -m training train` can go on with,
`results.csv`, `results.txt` and `results.png`, and Ray's own notes. Ray is an extra: `pip install .[sweep]`.
"""
