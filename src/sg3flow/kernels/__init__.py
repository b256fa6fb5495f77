"""How kernels are compiled: a library of C++ for CPUs; by NVRTC, cached, for GPUs."""
