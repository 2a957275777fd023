"""What the worker does with a partition: fold batches, close windows."""
