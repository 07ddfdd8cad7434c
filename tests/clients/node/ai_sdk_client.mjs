// Vercel's AI SDK with its defaults.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false;

const model_of = (url, session, model) =>
  createOpenAICompatible({
    name: "onestream",
    baseURL: `${url}/v1`,
    apiKey: "devkey",
    headers: { "X-Session-Id": session },
    includeUsage: true,
  })(model);

const weather = tool({
  description: "The weather of a city.",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
});

export async function whole(url, session, model, messages, withTools = false) {
  const tools = withTools ? { tools: { weather } } : {};
  const answer = await generateText({ model: model_of(url, session, model), messages, ...tools });
  return { text: answer.text, calls: answer.toolCalls, usage: answer.usage };
}

export async function* stream(url, session, model, messages, abortSignal) {
  const answer = streamText({
    model: model_of(url, session, model), messages, abortSignal, onError: () => {},
  });
  for await (const part of answer.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") yield { text: part.text };
    if (part.type === "finish") yield { usage: part.totalUsage };
  }
}

export function toolTurn(call, result) {
  const { toolCallId, toolName, input } = call;
  return [
    { role: "assistant", content: [{ type: "tool-call", toolCallId, toolName, input }] },
    { role: "tool", content: [{ type: "tool-result", toolCallId, toolName, output: { type: "text", value: result } }] },
  ];
}
