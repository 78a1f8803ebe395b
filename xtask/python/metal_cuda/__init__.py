"""The Metal kernels as CUDA C++: translated, compiled, and run on an NVIDIA GPU."""
