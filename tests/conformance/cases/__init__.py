"""The cases of the conformance vectors: what is computed, how it lies in memory, what comes out.

record      one case as it stands in the manifest, and its bytes
views       where the elements of a tensor lie in its buffer
operands    tensors from a short description such as "int8/block:5+asym"
attention   a forward call, a backward call, or both
roundings   quantize and dequantize calls
faults      calls that must be refused, and with which status
list_*      the cases themselves
"""
