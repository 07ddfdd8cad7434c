"""Plays every case with one client and prints one JSON object for each: `cases.py CLIENT URL`.

Standard library and the client only: this runs in the client's own environment. A client is a
module next to this one with `whole`, `stream` and `tool_turn`, or with a `client` that has them.
"""

import asyncio
import importlib
import json
import sys
import urllib.request

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def said(text):
    return [{"role": "user", "content": text}]


async def ask(url, method="GET"):
    def call():
        request = urllib.request.Request(
            url, method=method, headers={"authorization": "Bearer devkey"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            return json.load(answer)

    return await asyncio.to_thread(call)


class Cases:
    def __init__(self, client, url):
        self.client = client
        self.url = url

    async def whole(self, session, model="fake:normal", messages=HELLO, **more):
        return await self.client.whole(self.url, session, model, messages, **more)

    def stream(self, session, model="fake:normal", messages=HELLO, **more):
        return self.client.stream(self.url, session, model, messages, **more)

    async def active(self, session, at_least=1):
        """The running streams of the session, once there is this number."""
        while True:
            listed = (await ask(f"{self.url}/v1/streams"))["data"]
            running = [one for one in listed if one["state"] == "ACTIVE"]
            found = [one for one in running if session in json.dumps(one)]
            if len(found) >= at_least:
                return found
            await asyncio.sleep(0.01)

    async def plain(self):
        return await self.whole("plain")

    async def streamed(self):
        text, usage = "", None
        async for part in self.stream("streamed"):
            text += part.get("text") or ""
            usage = part.get("usage") or usage
        return {"text": text, "usage": usage}

    async def silent(self):
        """A stream with a silence in it, in which pings come."""
        text = ""
        async for part in self.stream("silent", "fake:pause"):
            text += part.get("text") or ""
        return {"text": text}

    async def tools(self):
        first = await self.whole("tools", "fake:tools", tools=[TOOL])
        (call,) = first["calls"]
        messages = [*HELLO, *self.client.tool_turn(call, "4 C")]
        second = await self.whole("tools", "fake:tools", messages)
        return {"call": call, "text": second["text"]}

    async def model_error(self):
        return await self.outcome(self.whole("model_error", "fake:error"))

    async def error_midstream(self):
        return await self.outcome(self.read("error_midstream", "fake:error-midstream"))

    async def stop(self):
        """The client breaks off; the server's stream comes to its end."""
        chunks = self.stream("stop", "fake:hang-midstream")
        async for _ in chunks:
            break
        (stream,) = await self.active("stop")
        await chunks.aclose()
        name = stream["trace_id"]
        while (found := await ask(f"{self.url}/v1/streams/{name}"))["state"] != "ENDED":
            await asyncio.sleep(0.01)
        return {"stream": found}

    async def superseded_stream(self):
        """Prompt 2 is sent when the first chunk of prompt 1 is there."""
        started = asyncio.Event()
        session = "superseded_stream"
        first = asyncio.create_task(
            self.outcome(self.read(session, "fake:hang-midstream", said("prompt 1"), started))
        )
        await started.wait()
        second = await self.outcome(self.read(session, "fake:normal", said("prompt 2")))
        return {"first": await first, "second": second}

    async def superseded_whole(self):
        """Prompt 2 streams on until prompt 1 is given up by its client, repetitions and all."""
        session = "superseded_whole"
        first = asyncio.create_task(
            self.outcome(self.whole(session, "fake:hang-before-headers", said("prompt 1")))
        )
        await self.active(session)
        started = asyncio.Event()
        second = asyncio.create_task(
            self.outcome(self.read(session, "fake:hang-midstream", said("prompt 2"), started))
        )
        await started.wait()
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        killed = second.done()
        # Whichever is left: prompt 2 as it should be, or a repetition of prompt 1.
        while not (first.done() and second.done()):
            for stream in await self.active(session, at_least=0):
                name = stream["trace_id"]
                await ask(f"{self.url}/v1/streams/{name}/cancel", "POST")
            await asyncio.wait({first, second}, timeout=0.05)
        answer, second_answer = await first, await second
        third = await self.outcome(self.read(session, "fake:normal", said("prompt 3")))
        return {"first": answer, "killed": killed, "second": second_answer, "third": third}

    async def read(self, session, model, messages=HELLO, started=None):
        text = ""
        async for part in self.stream(session, model, messages):
            text += part.get("text") or ""
            if started is not None:
                started.set()
        return {"text": text}

    async def outcome(self, coroutine):
        """What came back, or the error in the client's own terms."""
        try:
            return await coroutine
        except Exception as exc:
            return {
                "error": type(exc).__name__,
                "status": getattr(exc, "status_code", None),
                "message": str(exc),
            }


CASES = (
    "plain",
    "streamed",
    "silent",
    "tools",
    "model_error",
    "error_midstream",
    "stop",
    "superseded_stream",
    "superseded_whole",
)


async def main():
    client, url, *only = sys.argv[1:]
    module = importlib.import_module(client)
    cases = Cases(getattr(module, "client", module), url)
    for name in only or CASES:
        try:
            async with asyncio.timeout(200):
                result = await getattr(cases, name)()
        except Exception as exc:
            result = {"failed": f"{type(exc).__name__}: {exc}"}
        print(json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
