"""Engines of the forward passes at inference: torch, compiled torch, ONNX Runtime, OpenVINO."""
