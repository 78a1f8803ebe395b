"""Attention in float64, as plain formulas: the yardstick of every driver.

Nothing here is tiled, fused or fast. Read in this order:

    portable    sums, exp, log and random numbers whose bits are the same on every machine
    precision   how elements are stored
    quantize    how stored integers stand for real numbers
    problem     what one attention call is asked to do
    visibility  which key each query row may see, and the bias it adds
    arithmetic  float64, or the plain formula in the operands' own precision
    forward     O and logsumexp
    backward    the gradients
    errorrule   how far a driver may be from float64
"""
