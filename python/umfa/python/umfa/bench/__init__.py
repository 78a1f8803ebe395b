"""Measurements: time, memory and errors of attention, beside the other libraries on this machine.

`worker` and `engines` also run in Python environments without umfa (see `process`): they, and what
they import from here, need NumPy and the library to be measured, and nothing else.
"""
