// Reads the server's event stream (SSE) and keeps it open: after a break it connects again with Last-Event-ID, so that no
// durable event is missed. Live progress frames carry no id and may be lost. What an event means is the listener's business.
import { setTimeout as pause } from "node:timers/promises";
import type { Client } from "./client.ts";

export type StreamEvent = { readonly id: string; readonly type: string; readonly data: unknown };

/** First pause after a break; doubles up to the second. The server may be restarting, so the first one is short. */
const firstPauseMs = 250;
const longestPauseMs = 5_000;
/** The server sends a comment every 15 s; three missed ones mean that the line is dead. */
const silenceMs = 45_000;
/** An event is a few kilobytes; a longer line is not ours and the stream is read from the start again. */
const longestBlock = 1024 * 1024;

export type EventStream = { isOpen(): boolean; readonly done: Promise<void> };

export const listen = (
  client: Client,
  topics: string,
  signal: AbortSignal,
  onEvent: (event: StreamEvent) => void,
): EventStream => {
  let isOpen = false;
  const run = async () => {
    let lastId = "";
    let waitMs = firstPauseMs;
    while (!signal.aborted) {
      try {
        for await (const event of connect(client, topics, lastId, signal, () => {
          isOpen = true;
          waitMs = firstPauseMs;
        })) {
          if (event.id !== "") lastId = event.id;
          onEvent(event);
        }
      } catch {
        // A break and a refusal look the same to the listener: it polls until the stream is back.
      }
      isOpen = false;
      await pause(waitMs, undefined, { signal }).catch(() => {});
      waitMs = Math.min(longestPauseMs, waitMs * 2);
    }
  };
  return { isOpen: () => isOpen, done: run() };
};

async function* connect(
  client: Client,
  topics: string,
  lastId: string,
  signal: AbortSignal,
  opened: () => void,
): AsyncGenerator<StreamEvent> {
  const line = new AbortController();
  const watchdog = setTimeout(() => line.abort(), silenceMs);
  try {
    const headers = { accept: "text/event-stream", ...(lastId === "" ? {} : { "last-event-id": lastId }) };
    const path = `/api/v1/events?topics=${encodeURIComponent(topics)}`;
    const response = await client.open(path, headers, AbortSignal.any([signal, line.signal]));
    opened();
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) {
      watchdog.refresh();
      text += decoder.decode(chunk, { stream: true }).replaceAll("\r\n", "\n");
      let end = text.indexOf("\n\n");
      for (; end >= 0; end = text.indexOf("\n\n")) {
        const event = parseBlock(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
      if (text.length > longestBlock) return;
    }
  } finally {
    clearTimeout(watchdog);
    line.abort();
  }
}

/** One block of lines; undefined for a comment or an event without readable data. */
export const parseBlock = (block: string): StreamEvent | undefined => {
  let id = "";
  let type = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    const field = line.slice(0, colon);
    if (field === "id") id = value;
    else if (field === "event") type = value;
    else if (field === "data") data.push(value);
  }
  if (data.length === 0) return undefined;
  try {
    return { id, type, data: JSON.parse(data.join("\n")) };
  } catch {
    return undefined;
  }
};
