"""The methods that codes are measured against: a file each, found by its name in this folder."""
