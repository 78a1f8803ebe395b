"""Tests without a GPU."""
