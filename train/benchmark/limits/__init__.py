"""How near the step and the start are to what the machine allows: the matrix products alone, plain data parallel, DeepSpeed's least script."""
