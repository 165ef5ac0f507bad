"""onnxruntime-genai: language models converted to ONNX, said token by token by its generator."""
