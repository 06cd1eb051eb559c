"""Codecs for smashed data and gradients: what makes them small, and what that costs.

base              a packed tensor and what a codec is     registry   codecs by name, tensors through them
plain             the values as they are
dense:BITS        every value, stochastic quantisation with one scale for each token
topk:KEEP:BITS    the largest KEEP of all values, one scale, a bitmap of where they are
kernels           the loops, compiled          coding      symbols and bitmaps to fewer bytes
feedback          what a gradient's codec lost, added to the next gradient
"""
