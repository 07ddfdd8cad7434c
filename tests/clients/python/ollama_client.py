"""Ollama's own Python client."""

import ollama


def _client(url, session):
    headers = {"Authorization": "Bearer devkey", "X-Session-Id": session}
    return ollama.AsyncClient(host=url, headers=headers)


def _usage(answer):
    return {"prompt": answer.prompt_eval_count, "answer": answer.eval_count}


async def whole(url, session, model, messages, **more):
    answer = await _client(url, session).chat(model=model, messages=messages, **more)
    calls = [call.model_dump() for call in answer.message.tool_calls or ()]
    return {"text": answer.message.content, "calls": calls, "usage": _usage(answer)}


async def stream(url, session, model, messages, **more):
    chunks = await _client(url, session).chat(model=model, messages=messages, stream=True, **more)
    try:
        async for chunk in chunks:
            yield {"text": chunk.message.content, "usage": _usage(chunk) if chunk.done else None}
    finally:
        await chunks.aclose()


def tool_turn(call, result):
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": call["function"]["name"], "content": result},
    ]
