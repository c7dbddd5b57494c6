"""Entry points of the DVC stages: `python -m stages.NAME` reads parameters, calls `ssdh`, writes outs."""
