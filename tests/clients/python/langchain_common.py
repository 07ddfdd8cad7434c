"""LangChain's chat models, which all have one interface."""

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage


def _messages(messages):
    return [HumanMessage(one["content"]) if isinstance(one, dict) else one for one in messages]


class LangChain:
    def __init__(self, model_of):
        self.model_of = model_of

    async def whole(self, url, session, model, messages, tools=()):
        chat = self.model_of(url, session, model)
        if tools:
            chat = chat.bind_tools(list(tools))
        answer = await chat.ainvoke(_messages(messages))
        return {"text": answer.text, "calls": answer.tool_calls, "usage": answer.usage_metadata}

    async def stream(self, url, session, model, messages):
        chunks = self.model_of(url, session, model).astream(_messages(messages))
        try:
            async for chunk in chunks:
                yield {"text": chunk.text, "usage": chunk.usage_metadata}
        finally:
            await chunks.aclose()

    def tool_turn(self, call, result):
        return [
            AIMessage(content="", tool_calls=[call]),
            ToolMessage(content=result, tool_call_id=call["id"]),
        ]
