"""Measurements: how much quantization changes a result, and how long attention takes."""
