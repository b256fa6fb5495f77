"""CUDA and C++ sources of the kernels, their build and their loader."""
