"""A finished run at work: search, export, the web page."""
