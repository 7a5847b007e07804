"""Export of networks: ONNX, int8, OpenVINO, Python source; weights in and out."""
