"""Files that hold named arrays (MATLAB, HDF5, NumPy, PyTorch), listed at once and read a slice at a time."""
