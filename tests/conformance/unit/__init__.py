"""Tests of the reference itself."""
