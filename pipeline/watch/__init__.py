"""What is shown while a run goes on: progress, TensorBoard, W&B, lost terminals."""
