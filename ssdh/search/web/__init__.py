"""The local web page: `python -m ssdh serve`."""
