"""The FastAPI chat server in front of Ollama: a session has exactly one active stream."""
