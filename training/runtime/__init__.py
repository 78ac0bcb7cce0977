"""Runtime support: processes, random numbers, memory and CUDA graphs."""
