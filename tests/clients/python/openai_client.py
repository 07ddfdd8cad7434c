"""The openai package, of any version from 1.x on, with its defaults."""

import openai


def _client(url, session):
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="devkey", default_headers={"X-Session-Id": session}
    )


async def whole(url, session, model, messages, **more):
    async with _client(url, session) as client:
        answer = await client.chat.completions.create(model=model, messages=messages, **more)
    message = answer.choices[0].message
    return {
        "text": message.content,
        "calls": [call.model_dump() for call in message.tool_calls or ()],
        "usage": answer.usage.model_dump(),
    }


async def stream(url, session, model, messages, **more):
    async with _client(url, session) as client:
        chunks = await client.chat.completions.create(
            model=model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            **more,
        )
        async with chunks:
            async for chunk in chunks:
                usage = chunk.usage.model_dump() if chunk.usage else None
                text = chunk.choices[0].delta.content if chunk.choices else None
                yield {"text": text, "usage": usage}


def tool_turn(call, result):
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
    ]
