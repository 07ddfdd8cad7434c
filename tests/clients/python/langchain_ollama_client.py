"""LangChain's ChatOllama with its defaults: it speaks Ollama's own endpoints."""

from langchain_common import LangChain
from langchain_ollama import ChatOllama


def _model(url, session, model):
    headers = {"Authorization": "Bearer devkey", "X-Session-Id": session}
    return ChatOllama(model=model, base_url=url, client_kwargs={"headers": headers})


client = LangChain(_model)
