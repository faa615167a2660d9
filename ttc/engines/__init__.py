"""Where completions and rewards come from: vLLM, HTTP endpoints, recorded banks, a fake."""
