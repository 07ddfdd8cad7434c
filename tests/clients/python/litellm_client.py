"""LiteLLM with repetitions on, which is how its proxy is mostly set up."""

import asyncio

import litellm

litellm.suppress_debug_info = True
RETRIES = 2


def _arguments(url, session, model, messages):
    return {
        "model": f"openai/{model}",
        "api_base": f"{url}/v1",
        "api_key": "devkey",
        "messages": messages,
        "extra_headers": {"X-Session-Id": session},
        "num_retries": RETRIES,
    }


async def whole(url, session, model, messages, **more):
    # Its blocking way repeats whatever fails; the other leaves most of it to the layer below.
    answer = await asyncio.to_thread(
        litellm.completion, **_arguments(url, session, model, messages), **more
    )
    message = answer.choices[0].message
    return {
        "text": message.content,
        "calls": [call.model_dump() for call in message.tool_calls or ()],
        "usage": answer.usage.model_dump(),
    }


async def stream(url, session, model, messages, **more):
    chunks = await litellm.acompletion(
        **_arguments(url, session, model, messages),
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    try:
        async for chunk in chunks:
            usage = getattr(chunk, "usage", None)
            text = chunk.choices[0].delta.content if chunk.choices else None
            yield {"text": text, "usage": usage.model_dump() if usage else None}
    finally:
        await chunks.aclose()


def tool_turn(call, result):
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
    ]
