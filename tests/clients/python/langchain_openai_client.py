"""LangChain's ChatOpenAI with its defaults."""

from langchain_common import LangChain
from langchain_openai import ChatOpenAI


def _model(url, session, model):
    return ChatOpenAI(
        model=model,
        base_url=f"{url}/v1",
        api_key="devkey",
        default_headers={"X-Session-Id": session},
        stream_usage=True,
    )


client = LangChain(_model)
