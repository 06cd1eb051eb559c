"""Codecs for smashed data and gradients: what makes them small, and what that costs.

dense:BITS        every value, stochastic quantisation with one scale for each token
topk:KEEP:BITS    the largest KEEP of all values, one scale, a bitmap of where they are
kernels           the loops, compiled          coding      symbols and bitmaps to fewer bytes
feedback          what a gradient's codec lost, added to the next gradient
"""
