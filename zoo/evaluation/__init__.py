"""Run a model on images in evaluation mode, in micro-batches, and score its logits against the true classes."""
