"""Who computes batches: processes that may die at any moment, threads, or the trainer itself."""
