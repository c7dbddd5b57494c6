"""The report: one self-contained HTML page of a run, made of what stands in `metrics/` (`python -m stages.report`)."""
