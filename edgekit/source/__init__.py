"""Where a model comes from: the hub, a folder, an ONNX file, the zoo, or a config with random weights."""
