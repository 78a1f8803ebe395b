"""The cases of the conformance vectors: what is computed, how it lies in memory, what comes out.

record      one case as the manifest of its family has it, and its bytes
views       where the elements of a tensor lie in its buffer
operands    tensors from a short description such as "int8/block:5+asym"
attention   a forward call, a backward call, or both
roundings   quantize and dequantize calls
faults      calls that must be refused, and with which status
list_*      the cases themselves
"""
