"""What lies beneath training: processes, random sources, memory and CUDA graphs."""
