"""Many cells at a time, on the cores of this machine or on many machines: see README.md beside this file."""
